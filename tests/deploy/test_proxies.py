"""The proxies take their files, and let through what the service takes."""

import re
from pathlib import Path

from deployment_files import ROOT, run, tool

from app.serve.settings import Settings

PROXY = ROOT / "deploy" / "proxy"
NGINX = (PROXY / "nginx.conf").read_text()
CADDY = (PROXY / "Caddyfile").read_text()


def default(name: str) -> float:
    return float(Settings.model_fields[name].default)


def test_nginx_takes_its_file(tmp_path: Path) -> None:
    nginx = tool("nginx", "Debian's package nginx")
    key, certificate = tmp_path / "privkey.pem", tmp_path / "fullchain.pem"
    subject = ["-subj", "/CN=segment.example.org", "-nodes", "-newkey", "rsa:2048"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    run(tool("openssl", "Debian's package openssl"), "req", "-x509", *subject, *files)
    site = re.sub(r"/etc/letsencrypt/live/segment\.example\.org", str(tmp_path), NGINX)
    whole = tmp_path / "nginx.conf"
    whole.write_text(
        f"pid {tmp_path}/pid; error_log stderr; events {{}}\n"
        f"http {{ access_log off; client_body_temp_path {tmp_path}/body;\n"
        f"proxy_temp_path {tmp_path}/proxy; fastcgi_temp_path {tmp_path}/fastcgi;\n"
        f"uwsgi_temp_path {tmp_path}/uwsgi; scgi_temp_path {tmp_path}/scgi;\n{site}\n}}\n"
    )
    run(nginx, "-t", "-c", whole)


def test_caddy_takes_its_file() -> None:
    caddy = tool("caddy", "Debian's package caddy")
    run(caddy, "validate", "--adapter", "caddyfile", "--config", PROXY / "Caddyfile")


def test_the_service_s_own_limits_come_first() -> None:
    """Its answers say what is wrong and what to do; a proxy's do not."""
    mebibytes = {
        "nginx": re.search(r"client_max_body_size (\d+)m;", NGINX),
        "caddy": re.search(r"max_size (\d+)MiB", CADDY),
    }
    seconds = {
        "nginx": re.search(r"proxy_read_timeout (\d+)s;", NGINX),
        "caddy": re.search(r"response_header_timeout (\d+)s", CADDY),
    }
    for proxy in ("nginx", "caddy"):
        size, patience = mebibytes[proxy], seconds[proxy]
        assert size is not None
        assert patience is not None
        assert int(size[1]) * 2**20 > default("max_bytes")
        assert int(patience[1]) > default("request_timeout_s")


def test_metrics_stay_inside() -> None:
    assert re.search(r"location = /metrics \{\s*return 404;", NGINX)
    assert "respond /metrics 404" in CADDY
