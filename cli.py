"""The command line. Run it with: uv run python cli.py login"""

from notion_oauth.cli.main import app

if __name__ == "__main__":
    app()
