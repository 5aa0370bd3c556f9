"""What every test can ask for. The fixtures are in the modules named here."""

import gc

pytest_plugins = ("tests.fixtures_servers", "tests.fixtures_store")


def pytest_collection_finish() -> None:
    """Leave the modules and the collected tests out of garbage collections: all of them stay."""
    gc.collect()
    gc.freeze()
