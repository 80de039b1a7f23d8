"""The data half: stages that turn a vehicle image collection into a retrieval data set."""
