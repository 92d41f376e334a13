"""The application that the service is compared with: one FastAPI route that returns JSON."""

from __future__ import annotations

from fastapi import FastAPI

app = FastAPI()


@app.get("/auth/status")
async def status() -> dict[str, str]:
    return {"status": "unauthenticated"}
