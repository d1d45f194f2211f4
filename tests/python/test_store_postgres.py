#!/usr/bin/env python3
"""The tests of stores and search, on a PostgreSQL with pgvector.

    python3 tests/python/test_store_postgres.py [--build build/release] [--url postgresql://...]

The C test programs are those that ctest runs on SQLite; TANDEM_TEST_POSTGRES makes them use a database, each test in a
schema of its own. Without --url a server is started from the package `pgserver` in a temporary folder (as root, which
PostgreSQL refuses to run as, that package makes a user "pgserver"); skips with a sentence where the package is absent.
"""
import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAMS = ["test_store", "test_store_jobs", "test_store_random", "test_store_crash", "test_search", "test_confidence",
            "test_search_scifact"]


def run(build, url):
    failed = 0
    for name in PROGRAMS:
        start = time.monotonic()
        # One at a time: a killed client's connection ends when the server notices.
        done = subprocess.run([build / name, "-j1"], cwd=ROOT, env={**os.environ, "TANDEM_TEST_POSTGRES": url}, capture_output=True,
                              text=True, timeout=600)
        lines = (done.stdout + done.stderr).strip().splitlines()
        print(f"{name}: {'passed' if done.returncode == 0 else 'FAILED'} in {time.monotonic() - start:.1f} s: {lines[-1] if lines else ''}")
        if done.returncode:
            failed += 1
            print("\n".join(lines))
    print(f"{len(PROGRAMS) - failed} passed, {failed} failed")
    return failed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build" / "release", help="where the test programs were built")
    parser.add_argument("--url", help="a database that has pgvector; it must have a query part, such as ?host=...")
    args = parser.parse_args()
    build = args.build.resolve()
    if args.url:
        return run(build, args.url)
    if "PQconnectdb" not in subprocess.run(["nm", "-D", build / "test_store"], capture_output=True, text=True).stdout:
        print("skipped: this build has no PostgreSQL (libpq-dev)")
        return 0
    try:
        import pgserver
    except ImportError:
        print("skipped: the package pgserver is not installed, and no --url names a PostgreSQL with pgvector")
        return 0
    with tempfile.TemporaryDirectory(prefix="tandem-pg-") as folder:
        server = pgserver.get_server(folder, cleanup_mode="stop")
        try:
            server.psql("CREATE EXTENSION IF NOT EXISTS vector")
            print(server.psql("SELECT 'PostgreSQL ' || current_setting('server_version') || ', pgvector ' || extversion "
                              "FROM pg_extension WHERE extname = 'vector'").splitlines()[2].strip())
            return run(build, server.get_uri())
        finally:
            server.cleanup()


if __name__ == "__main__":
    sys.exit(1 if main() else 0)
