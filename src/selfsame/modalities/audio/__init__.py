"""Sound: WAV, FLAC, Ogg and MP3 files, whole or by windows. The package is the object that `types.Modality` names."""

from selfsame.lazy import lazily

name = "audio"

_PLACES = {
    "reads": "opening",
    "open_source": "opening",
    "Reading": "reading",
    "Stats": "reading",
    "measure": "measuring",
    "Views": "recipes",
    "recipe": "recipes",
    "sample": "views",
    "make_views": "views",
    "default_size": "defaults",
    "size_told": "defaults",
    "default_encoder": "defaults",
    "network_names": "defaults",
    "make_encoder": "encoder",
    "own_encoder": "encoder",
    "build_encoder": "encoder",
    "save_encoder": "encoder",
    "load_encoder": "encoder",
    "export": "exports",
    "picture": "sheet",
    "fragment": "sheet",
    "contact_sheet": "sheet",
    "raw_name": "raw",
    "raw_tells_copies": "raw",
    "raw_vectors": "raw",
}

__getattr__, __dir__ = lazily(__name__, {key: f"{__name__}.{module}" for key, module in _PLACES.items()})
