# The service as an image: docker build -t notion-oauth . ; deploy/ shows how to run it safely.
# requirements.lock includes the extras postgres and redis, for several instances

FROM python:3.12-slim-bookworm AS build
RUN ["pip", "install", "--no-cache-dir", "uv==0.13.9"]
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_NO_CACHE=1 UV_PYTHON_DOWNLOADS=never
WORKDIR /src
RUN ["uv", "venv", "/opt/notion-oauth"]
ENV VIRTUAL_ENV=/opt/notion-oauth
# Only wheels with verified hashes, so that no code of a dependency runs during the installation
COPY requirements.lock ./
RUN ["uv", "pip", "install", "--require-hashes", "--only-binary", ":all:", "-r", "requirements.lock"]
COPY pyproject.toml README.md LICENSE ./
COPY notion_oauth/ notion_oauth/
RUN ["uv", "pip", "install", "--no-deps", "."]

FROM python:3.12-slim-bookworm
RUN ["groupadd", "--gid", "10001", "notion-oauth"]
RUN ["useradd", "--uid", "10001", "--gid", "10001", "--no-create-home", "--home-dir", "/data", "--shell", "/usr/sbin/nologin", "notion-oauth"]
RUN ["install", "-d", "-o", "10001", "-g", "10001", "-m", "0700", "/data"]
COPY --from=build /opt/notion-oauth /opt/notion-oauth
ENV PATH=/opt/notion-oauth/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    NOTION_OAUTH_TOKEN_FILE=/data/tokens.json
# uvicorn also imports from the working directory, so the service must not be able to write to it
WORKDIR /opt/notion-oauth
USER 10001:10001
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
# http.client, because it ignores proxies in the environment
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "-IS", "-c", "from http.client import HTTPConnection as C; c = C('127.0.0.1', 8000, timeout=4); c.request('GET', '/healthz'); raise SystemExit(c.getresponse().status != 200)"]
# Trusted proxies are configured in one place, NOTION_OAUTH_TRUSTED_PROXIES, so uvicorn must not believe headers itself
CMD ["uvicorn", "--factory", "notion_oauth.app:create_app", "--host", "0.0.0.0", "--port", "8000", "--no-proxy-headers", "--no-server-header"]
