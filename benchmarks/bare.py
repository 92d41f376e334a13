"""What the service is measured beside: one JSON route of FastAPI, and nothing else."""

from __future__ import annotations

from fastapi import FastAPI

app = FastAPI()


@app.get("/auth/status")
async def status() -> dict[str, str]:
    return {"status": "unauthenticated"}
