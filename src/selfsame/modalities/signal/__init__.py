"""Series from sensors: arrays, tables, `.ts` files. The package is the object that `types.Modality` names."""

from selfsame.lazy import lazily

name = "signal"

_PLACES = {
    "Reading": "reading",
    "Stats": "stats",
    "measure": "stats",
    "open_source": "opening",
    "reading_for": "opening",
    "reads": "opening",
    "Views": "recipes",
    "recipe": "recipes",
    "make_views": "views",
    "sample": "views",
    "default_encoder": "defaults",
    "network_names": "defaults",
    "default_size": "defaults",
    "fragment": "defaults",
    "raw_name": "defaults",
    "raw_vectors": "defaults",
    "size_told": "defaults",
    "build_encoder": "encoder",
    "load_encoder": "encoder",
    "make_encoder": "encoder",
    "own_encoder": "encoder",
    "save_encoder": "encoder",
    "export": "exports",
    "contact_sheet": "drawing",
    "picture": "drawing",
}

__getattr__, __dir__ = lazily(__name__, {key: f"{__name__}.{module}" for key, module in _PLACES.items()})
