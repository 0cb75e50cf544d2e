"""A bounding box as the condition: the conditioner, avatars drawn at given places, and a recipe that trains on them."""

from gankit import hookimpl


@hookimpl
def gankit_register(register):
    register("conditioner", "box", "gankit_boxes.conditioner:BoxConditioner")
    register("source", "boxes", "gankit_boxes.source:BoxSource")
    register("recipe", "boxes", "gankit_boxes:recipes/boxes.yaml")
