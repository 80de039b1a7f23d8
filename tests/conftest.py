"""What all tests need."""

import signal

# Started in the background of a shell, a process ignores Ctrl-C, and so does all it starts: tests that press it in a
# child would wait in vain. A handler of our own is not inherited; the children have Python's.
signal.signal(signal.SIGINT, signal.default_int_handler)
