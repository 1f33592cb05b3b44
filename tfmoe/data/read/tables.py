"""What all readers share."""

CHUNK_ROWS = 65_536


def _one_array(chunked):
    return chunked.chunk(0) if chunked.num_chunks == 1 else chunked.combine_chunks()


def _check_names(names, wanted, path=None):
    repeated = sorted({str(name) for name in wanted if names.count(name) > 1})
    if repeated:
        where = f" in {path}" if path else ""
        raise ValueError(
            f"A table needs different column names. Received {repeated} twice{where}. "
            "Rename or drop one of them."
        )
