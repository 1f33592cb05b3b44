"""Which layers of a model are not trained: what Keras keeps of layers that it saves by config."""

from tfmoe.keras_private import flatten_layers


def _layers(model):
    """The layers that a config makes again, those that hold others before these."""
    parts = (model.encoder, model.mixture, model.towers, model.head)
    return [layer for part in parts for layer in flatten_layers(part)]


def frozen_places(model):
    """The layers that are not trained, as list of their places among all."""
    return [place for place, layer in enumerate(_layers(model)) if not layer.trainable]


def freeze_places(model, places):
    """Leaves untrained just these layers of a model, see `frozen_places`; None: as it is."""
    if places is None:
        return
    for place, layer in enumerate(_layers(model)):
        # A layer takes those within it along, which come later.
        if layer.trainable == (place in places):
            layer.trainable = place not in places
