"""`fcn COMMAND`, the same as `python -m app.COMMAND`."""

import importlib
import sys
from typing import Final

COMMANDS: Final = {
    "train": "train an FCN on labelled images",
    "evaluate": "measure a checkpoint on a labelled split",
    "calibrate": "fit the temperature that makes a checkpoint's probabilities come true",
    "predict": "write masks for image files",
    "segment": "let a server write masks for folders of photos",
    "convert": "make a checkpoint of the paper's published weights",
    "export": "write a checkpoint's network as ONNX or torch.export",
    "bench": "measure the service under load, beside the engine alone and other servers",
    "serve": "answer POST /segment over HTTP",
}
"""Command -> what it does. A command's module is imported only when it runs."""


def main() -> int:
    """Run the command that the first argument names."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print("usage: fcn COMMAND [OPTIONS]\n\ncommands:")
        for command, description in COMMANDS.items():
            print(f"  {command:10} {description}")
        print("\n`fcn COMMAND --help` shows a command's options and an example.")
        return 0
    if name not in COMMANDS:
        print(
            f"fcn: error: unknown command {name!r}; known: {', '.join(COMMANDS)}", file=sys.stderr
        )
        return 2
    package = name in ("train", "bench", "serve")
    module = importlib.import_module(f"app.{name}.__main__" if package else f"app.{name}")
    del sys.argv[1]
    result: int = module.main()
    return result


if __name__ == "__main__":
    sys.exit(main())
