"""dlt's `rest_api` source into PostgreSQL by `merge`, with its defaults; run by a Python that has dlt.

    python dlt_pages.py <base url> <database url> <folder>

Reads `<rows per page> <first page> <end>` from standard input, line by line, and prints the seconds of each pass.
"""

import os
import sys
from time import perf_counter

KEPT = "gsm_track_id"


def main(base_url: str, database_url: str, folder: str) -> None:
    """Passes as they are asked for, all through one pipeline."""
    os.environ["RUNTIME__DLTHUB_TELEMETRY"] = "false"
    os.environ["RUNTIME__LOG_LEVEL"] = "CRITICAL"
    import dlt  # type: ignore[import-not-found]
    from dlt.sources.rest_api import rest_api_source  # type: ignore[import-not-found]

    pipeline = dlt.pipeline(
        pipeline_name="bench",
        pipelines_dir=folder,
        destination=dlt.destinations.postgres(database_url),
        dataset_name="bench",
    )
    print("ready", flush=True)
    for line in sys.stdin:
        size, first, end = (int(word) for word in line.split())
        paginator = {
            "type": "page_number",
            "base_page": first,
            "total_path": None,
            "maximum_page": end,
            "stop_after_empty_page": False,
        }
        endpoint = {"path": str(size), "data_selector": "response.data", "paginator": paginator}
        resource = {"name": "rows", "endpoint": endpoint, "primary_key": KEPT, "write_disposition": "merge"}
        started = perf_counter()
        pipeline.run(rest_api_source({"client": {"base_url": base_url}, "resources": [resource]}))
        print(perf_counter() - started, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
