"""The account of a run: its normalised address, and a name where the user gives one."""

import pytest

from batchrunner.account.names import account_of


@pytest.mark.parametrize(
    "address",
    [
        "https://api.example.com",
        "HTTPS://API.Example.com/",
        "https://api.example.com:443",
        " https://api.example.com. ",
    ],
)
def test_one_address_is_one_account_however_it_is_written(address: str) -> None:
    assert account_of(address) == account_of("https://api.example.com")


def test_another_port_host_or_path_is_another_account() -> None:
    keys = {
        account_of(address).key
        for address in (
            "http://127.0.0.1:1",
            "http://127.0.0.1:2",
            "https://api.example.com",
            "https://a.example.com/x",
        )
    }
    assert len(keys) == 4


def test_a_name_makes_an_account_of_its_own() -> None:
    plain, named = account_of("https://api.example.com"), account_of("https://api.example.com", "studio")
    assert plain.key != named.key
    assert (plain.shown, named.shown) == ("api.example.com", "studio")
    assert account_of("https://other.example.com", "studio").key != named.key


def test_an_empty_name_is_no_name() -> None:
    assert account_of("https://api.example.com", " ") == account_of("https://api.example.com")
