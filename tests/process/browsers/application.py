"""An application with users and with Starlette's sessions: `/enter?user=NAME` stands for its own sign-in."""

from __future__ import annotations

import os

from fastapi import FastAPI, Request, Response
from starlette.middleware.sessions import SessionMiddleware

from notion_oauth.router import create_router


def _profile(request: Request) -> str | None:
    user: str | None = request.session.get("user")
    return user


app = FastAPI()
app.include_router(create_router(profile=_profile))
app.add_middleware(SessionMiddleware, secret_key=os.environ["APPLICATION_KEY"], https_only=True)


@app.get("/enter")
async def enter(request: Request, user: str) -> Response:
    request.session["user"] = user
    return Response(status_code=204)
