"""Texts: lines, files, tables with a column of text. The package is the object that `types.Modality` names."""

from selfsame.lazy import lazily

name = "text"

_PLACES = {
    "Reading": "reading",
    "Stats": "stats",
    "Views": "recipes",
    "build_encoder": "encoder",
    "contact_sheet": "sheet",
    "default_encoder": "defaults",
    "network_names": "defaults",
    "default_size": "defaults",
    "encoder_for": "defaults",
    "export": "exports",
    "fragment": "sheet",
    "load_encoder": "encoder",
    "make_encoder": "encoder",
    "make_views": "views",
    "measure": "stats",
    "open_source": "opening",
    "own_encoder": "encoder",
    "picture": "sheet",
    "raw_name": "raw",
    "raw_vectors": "raw",
    "reading_for": "opening",
    "reads": "opening",
    "recipe": "recipes",
    "sample": "views",
    "save_encoder": "encoder",
    "size_told": "defaults",
}

__getattr__, __dir__ = lazily(__name__, {key: f"{__name__}.{module}" for key, module in _PLACES.items()})
