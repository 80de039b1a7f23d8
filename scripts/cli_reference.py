"""Print docs/cli.md: what ``--help`` says of every command, in order."""

import os
from contextlib import redirect_stdout
from io import StringIO

os.environ["COLUMNS"] = "110"

from pfcvr.cli import data_app, model_app, run  # noqa: E402


def help_text(app: object, program: str, *command: str) -> str:
    captured = StringIO()
    with redirect_stdout(captured):
        run(app, program, [*command, "--help"])
    return captured.getvalue().rstrip()


def command_names(text: str) -> list[str]:
    """The commands that a program's help lists."""
    listed = text.partition("Commands:")[2].splitlines()
    return [line.split()[0] for line in listed if line.startswith("  ") and line[2] != " "]


def main() -> None:
    print("# Commands\n\nWritten by `make docs` from the programs' own help; a test keeps it current.")
    for app, program in ((data_app, "pfcvr-data"), (model_app, "pfcvr")):
        overview = help_text(app, program)
        print(f"\n## {program}\n\n```text\n{overview}\n```")
        for name in command_names(overview):
            print(f"\n### {program} {name}\n\n```text\n{help_text(app, program, name)}\n```")


if __name__ == "__main__":
    main()
