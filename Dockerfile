# The service as an image: docker build -t notion-oauth . ; how to run it safely is in deploy/

FROM python:3.12-slim-bookworm AS build
RUN ["pip", "install", "--no-cache-dir", "uv==0.13.9"]
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_NO_CACHE=1 UV_PYTHON_DOWNLOADS=never
WORKDIR /src
RUN ["uv", "venv", "/opt/notion-oauth"]
ENV VIRTUAL_ENV=/opt/notion-oauth
# Wheels alone, with the hashes that are known: nothing of a dependency runs while it is installed
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
# uvicorn imports from the working folder too: that is none which the service may write
WORKDIR /opt/notion-oauth
USER 10001:10001
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
# http.client, which asks no proxy of the environment for this machine
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "-IS", "-c", "from http.client import HTTPConnection as C; c = C('127.0.0.1', 8000, timeout=4); c.request('GET', '/healthz'); raise SystemExit(c.getresponse().status != 200)"]
# Whom to believe about clients and https is said in one place, NOTION_OAUTH_TRUSTED_PROXIES, and not to uvicorn too
CMD ["uvicorn", "--factory", "notion_oauth.app:create_app", "--host", "0.0.0.0", "--port", "8000", "--no-proxy-headers", "--no-server-header"]
