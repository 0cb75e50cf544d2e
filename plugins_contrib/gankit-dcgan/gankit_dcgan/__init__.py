"""The generator of DCGAN, and a recipe that trains it."""

from gankit import hookimpl


@hookimpl
def gankit_register(register):
    register("generator", "dcgan", "gankit_dcgan.generator:DCGAN")
    register("recipe", "dcgan", "gankit_dcgan:recipes/dcgan.yaml")
