"""The command line of this clone. Run it with: uv run python cli.py login"""

from pathlib import Path

from notion_oauth.cli.main import main

if __name__ == "__main__":
    main(clone=Path(__file__).resolve().parent)
