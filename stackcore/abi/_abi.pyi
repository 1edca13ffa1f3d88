build_hash: str
symbols: dict[str, int]
constants: dict[str, int]
records: dict[str, tuple[int, int, list[tuple[str, str, int, int, str, str]]]]
