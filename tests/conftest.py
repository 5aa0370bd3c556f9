"""What every test can ask for. The fixtures are in the modules named here."""

pytest_plugins = ("tests.fixtures_servers", "tests.fixtures_store")
