"""Which layers of a model are not trained: what Keras keeps of layers that it saves by config."""


def frozen_places(model):
    """The layers that are not trained, as list of their places among all."""
    layers = model._flatten_layers(include_self=False)
    return [place for place, layer in enumerate(layers) if not layer.trainable]


def freeze_places(model, places):
    """Freezes a model made from the config of one of which `frozen_places` were these."""
    layers = list(model._flatten_layers(include_self=False)) if places else []
    for place in places:
        layers[place].trainable = False
    # A layer takes those within it along, of which some may be trained.
    for place, layer in enumerate(layers):
        if place not in places and not layer.trainable:
            layer.trainable = True
