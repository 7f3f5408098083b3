"""The walls between rooms: one table of allowed imports, checked on the source and at run time."""

from __future__ import annotations

# Room -> rooms it may import, besides itself and the top modules (errors, tally, ...): only rooms above it.
# The row of a single file is narrower than its room's, or opens it to one more room above.
ROOMS = {
    "files": "",
    "text": "files",
    "corpus": "files text",
    "kernels": "",
    "model": "files",
    "score": "text",
    "tasks": "files text model score",
    "decode": "files text model",
    "recipe": "files corpus model tasks",
    "report": "files",
    "infer": "files text kernels model tasks decode",
    "bench": "files text kernels model infer",
    "retrieval": "files kernels model score decode infer",
    "train": "files model recipe",
    "distill": "files text corpus kernels model recipe report infer train",
    "finetune": "files text corpus model score tasks decode recipe report infer train",
    "export": "files text kernels model score tasks decode infer",
    "run_recipe": "recipe distill finetune",
    "compare": "files recipe report train distill",
    "quickstart": "files text corpus model score tasks recipe report infer train distill finetune export",
    "cli": "files text corpus kernels model score tasks decode recipe report infer bench retrieval train distill "
    "finetune export quickstart run_recipe compare",
}
FILES = {
    "distill/relation_loss.py": "model",
    "distill/relation_kernel.py": "kernels",
    "finetune/embed_losses.py": "",
    "finetune/embed_teacher.py": "files text model infer distill",  # a teacher that only transformers runs
    **{
        f"model/{name}.py": ""
        for name in (
            *(
                "attention",
                "compact",
                "config",
                "encoder",
                "heads",
                "inherited",
                "tensor_names",
                "packing",
                "pooling",
                "positions",
                "precision",
            ),
            *("prepacked", "seq2seq", "token_budget", "vector_head", "without_weights"),
        )
    },
    **{f"decode/{name}.py": "model text" for name in ("beam", "cache", "search_rules", "decoder", "sampling")},
}
PURE = ("model/", "score/", "decode/", "distill/relation_loss.py", "finetune/embed_losses.py")
TOUCH_FILES = {"model/checkpoint.py", "model/embedding.py", "decode/traces.py"}
IO_MODULES = {"io", "os", "shutil", "socket", "subprocess", "tempfile", "urllib", "http", "json", "pickle"}
TORCH_IS_SLOW = ("text", "corpus", "kernels", "recipe", "cli")  # these start without it


def test_every_room_has_a_row_of_rooms_above_it(package):
    """A new room gets a row; a row never points down."""
    rooms = list(ROOMS)
    assert {file.room for file in package if "/" in file.module} | {"run_recipe", "compare"} == set(rooms)
    wrong = [
        f"{room} -> {other}"
        for room in rooms
        for other in ROOMS[room].split()
        if other not in rooms[: rooms.index(room)]
    ]
    assert not wrong, wrong


def test_a_room_imports_what_its_row_allows(package):
    top = {file.room for file in package if "/" not in file.module} - {"__init__", *ROOMS} | {"__version__"}
    known = {file.module for file in package}
    assert not (gone := [name for name in FILES if name.endswith(".py") and name not in known]), gone
    wrong = []
    for file in package:
        if file.module == "__init__.py":
            continue
        allowed = set(FILES.get(file.module, ROOMS.get(file.room, "")).split())
        wrong += [f"{file.name}: {room}" for room in sorted(file.rooms - allowed - top - {file.room})]
    assert not wrong, wrong


def test_names_are_imported_by_their_full_name(package):
    """No relative import, and no `from minilm import load` inside the package: both bypass a wall."""
    rooms = {file.room for file in package} | {"__version__"}
    wrong = [
        f"{file.name}: {name}"
        for file in package
        for name in sorted(file.imports)
        if name.startswith(".") or (name.startswith("minilm.") and name.split(".")[1] not in rooms)
    ]
    assert not wrong, wrong


def test_inference_loads_only_what_its_row_allows(package, loaded_after):
    """What inference loads, also through other rooms, is what its users wait for and must install: nothing more."""
    modules = sorted(
        "minilm." + file.module.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        for file in package
        if file.room in ("infer", "decode", "model")
    )
    loaded = loaded_after(f"{', '.join(modules)}")[0]
    assert set(modules) <= loaded
    own = {name.split(".")[1] for name in loaded if name.startswith("minilm.")}
    forbidden = set(ROOMS) - set(ROOMS["infer"].split()) - {"infer", "score"}  # tasks score what they hold out
    assert not own & forbidden, own & forbidden
    assert not {name.partition(".")[0] for name in loaded} & {"transformers", "pydantic", "typer", "yaml", "rich"}


def test_light_modules_load_no_torch(loaded_after):
    names = ("minilm", "minilm.errors", "minilm.kernels.library", "minilm.recipe", "minilm.cli.app")
    heavy = {name: {"torch", "transformers"} & loaded for name, loaded in zip(names, loaded_after(*names), strict=True)}
    assert not any(heavy.values()), heavy


def test_rooms_that_start_fast_import_no_torch_at_the_top(package):
    wrong = [
        file.name
        for file in package
        if file.room in TORCH_IS_SLOW
        and {name.partition(".")[0] for name in file.imported_by(file.tree.body)} & {"torch", "transformers"}
    ]
    assert not wrong, wrong


def test_pure_files_do_no_io(package):
    """Tensors or arrays in, numbers out; checkpoints and traces are read through `files`."""
    pure = [file for file in package if file.module.startswith(PURE) and file.module not in TOUCH_FILES]
    wrong = [f"{file.name}: {name}" for file in pure for name in sorted(file.roots & IO_MODULES)]
    assert len(pure) > 20
    assert not wrong, wrong


def test_transformers_is_imported_in_one_place(package):
    assert [file.module for file in package if "transformers" in file.roots] == ["distill/teacher.py"]
