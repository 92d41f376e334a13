"""The service. Run it with: uv run uvicorn main:app --reload --port 8000"""

from notion_oauth.app import create_app

app = create_app()
