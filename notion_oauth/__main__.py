"""The command line: python -m notion_oauth."""

from notion_oauth.cli.main import app

if __name__ == "__main__":
    app(prog_name="python -m notion_oauth")
