"""Images: files that Pillow and tifffile open, arrays, zips. The package is the object that `types.Modality` names."""

from selfsame.lazy import lazily

name = "image"

_PLACES = {
    "reads": "opening",
    "open_source": "opening",
    "Reading": "opening",
    "Stats": "stats",
    "measure": "stats",
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
    "raw_vectors": "raw",
    "CachePlan": "cache",
    "plan_cache": "cache",
    "cached": "cache",
    "timed_sample": "timing",
    "compile_views": "graph",
    "fingerprint": "hashing",
}

__getattr__, __dir__ = lazily(__name__, {key: f"{__name__}.{module}" for key, module in _PLACES.items()})
