"""Stands in for vLLM where only its life as a process is tested; lies on the path of the server's interpreter alone."""
