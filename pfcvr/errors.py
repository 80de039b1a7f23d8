"""Every error a user can meet, drawn as a tree. Each carries one sentence: what, where, what was expected, what next.

PfcvrError                  exit code 1
├── UsageError              exit code 2: a name, flag or configuration key that does not exist
├── SourceError             an input file or folder is not what the command expects
├── WorkspaceError          a workspace is missing, newer than this program, or inconsistent
│   ├── LockedError         another process is working on it
│   └── SealedError         a finished stage or output was made from other inputs
├── StageStopped            a run stopped itself and can be continued by the same command
│   └── TrainingDiverged    a loss or a weight is no longer a finite number: only other settings help
├── NothingKept             a stage ended without a single good row
├── CheckFailed             the audit of a workspace found failures
├── DataError               a data set cannot be trained or evaluated on
├── CheckpointError         weights, run folder or gallery cannot be read
├── HubError                the Hugging Face Hub refused something or was not reached
├── ServerError             a captioning endpoint is none, refuses the key or lacks the model
└── BackendError            an optional package that a backend needs is missing
"""


class PfcvrError(Exception):
    """Base of all errors that are shown to the user as one sentence.

    The message is free of line breaks; ``exit_code`` is what the process returns.
    """

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class UsageError(PfcvrError):
    exit_code = 2


class SourceError(PfcvrError):
    pass


class WorkspaceError(PfcvrError):
    pass


class LockedError(WorkspaceError):
    pass


class SealedError(WorkspaceError):
    pass


class StageStopped(PfcvrError):
    pass


class TrainingDiverged(StageStopped):
    pass


class NothingKept(PfcvrError):
    pass


class DataError(PfcvrError):
    pass


class CheckpointError(PfcvrError):
    pass


class HubError(PfcvrError):
    pass


class ServerError(PfcvrError):
    pass


class BackendError(PfcvrError):
    pass


def first_line(error: BaseException) -> str:
    """What a library's error says, short enough to stand inside a sentence: its first line, or its kind without one."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
