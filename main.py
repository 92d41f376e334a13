"""The service of this clone. Run it with: uv run uvicorn main:app --reload --port 8000"""

from pathlib import Path

from notion_oauth.app import create_app

app = create_app(clone=Path(__file__).resolve().parent)
