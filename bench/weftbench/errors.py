"""The two ways in which a benchmark goes wrong."""


class BenchError(Exception):
    """Nothing can be measured; the message says what to do."""


class CaseFailed(Exception):
    """One peer failed one case; the other peers and cases go on."""
