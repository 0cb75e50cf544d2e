"""The optimizer Lion."""

from gankit import hookimpl


@hookimpl
def gankit_register(register):
    register("optimizer", "lion", "gankit_lion.lion:Lion")
