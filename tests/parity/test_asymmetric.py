"""An asymmetric model gives the vectors of the `Router` of sentence-transformers, for each role, read and written."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import minilm
from minilm.bench.encode import bench_encode
from minilm.errors import DataError, UsageError
from minilm.export.quantize import quantize
from minilm.files.regular import sha256_texts
from minilm.finetune.embed_teacher import find_teacher
from minilm.finetune.teacher_vectors import TeacherVectors
from minilm.infer.vector_precision import quantized
from minilm.kernels.library import find_library
from minilm.model.embedding import EmbeddingSettings
from minilm.model.embedding_files import write_embedding
from minilm.model.vector_modules import Dense, LayerNorm, Normalize
from minilm.model.vector_ranges import VECTOR_RANGES, write_symmetric_range

sentence_transformers = pytest.importorskip("sentence_transformers")
modules = pytest.importorskip("sentence_transformers.models")

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TEXTS = ["a b c", "", "d A B [MASK]", "f e d c b a " * 9, "a"]
TEACHER_WIDTH, STUDENT_WIDTH = 24, 16
PROMPTS = {"query": "f e ", "document": "b ", "sts": "c c "}


@pytest.fixture(scope="module")
def student(tmp_path_factory, write_encoder):
    """Its vectors have the teacher's width by a Dense module."""
    folder = tmp_path_factory.mktemp("student")
    write_encoder(folder, vocabulary=[*SPECIAL, *"abcdef"], width=STUDENT_WIDTH, max_tokens=12)
    generator = np.random.default_rng(0)
    weight = generator.standard_normal((TEACHER_WIDTH, STUDENT_WIDTH), dtype=np.float32)
    settings = EmbeddingSettings(
        modules=(Dense(weight=weight, bias=weight[:, 0]),), max_tokens=9, lowercase=True, prompts={"query": "f e "}
    )
    write_embedding(folder, settings, hidden_size=STUDENT_WIDTH)
    return folder


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, write_encoder):
    """Another tokenizer, width and length, and another pooling."""
    folder = tmp_path_factory.mktemp("teacher")
    write_encoder(folder, vocabulary=[*SPECIAL, *"ABfedcba"], width=TEACHER_WIDTH, seed=1)
    settings = EmbeddingSettings(
        pooling=("cls",), max_tokens=20, include_prompt=False, prompts={"document": "b "}, similarity="dot"
    )
    write_embedding(folder, settings, hidden_size=TEACHER_WIDTH)
    return folder


@pytest.fixture
def written(student, teacher, tmp_path):
    minilm.write_asymmetric(query=student, document=teacher, out=tmp_path / "written")
    return tmp_path / "written"


@pytest.fixture
def saved(student, teacher, tmp_path):
    """`saved(...)`: a folder that sentence-transformers saves, with a module after the router."""

    def make(*after, default="document", allow_empty=True, pooled_inside=True, **settings):
        cased = shutil.copytree(student, tmp_path / "cased")  # they forget `do_lower_case` of what they save
        changed(cased / "sentence_bert_config.json", do_lower_case=False)
        query, document = (list(theirs_of(folder)) for folder in (cased, teacher))
        if not pooled_inside:
            query = document = document[:1]
        router = modules.Router.for_query_document(query, document, default, allow_empty)
        model = sentence_transformers.SentenceTransformer(modules=[router, *after], device="cpu", **settings)
        model.save(str(tmp_path / "saved"))
        return tmp_path / "saved"

    return make


def theirs_of(folder):
    return sentence_transformers.SentenceTransformer(str(folder), device="cpu", local_files_only=True)


def assert_equal(found, expected):
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)


def assert_same(folder):
    """Both roles, and texts without one."""
    ours, theirs = minilm.load(folder), theirs_of(folder)
    query, document = ours.encode(TEXTS, role="query"), ours.encode(TEXTS, role="document")
    assert_equal(query, theirs.encode_query(TEXTS))
    assert_equal(document, theirs.encode_document(TEXTS))
    assert not np.allclose(query, document, atol=0.1)
    assert_equal(ours.encode(TEXTS), theirs.encode(TEXTS))
    assert_equal(ours.encode(TEXTS, prompt="c "), theirs.encode(TEXTS, prompt="c "))
    for role in set(theirs.prompts) - {"query", "document"}:
        assert_equal(ours.encode(TEXTS, role=role), theirs.encode(TEXTS, prompt_name=role))


def changed(file, **values):
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


# --- reading -------------------------------------------------------------------------------------


@pytest.mark.parametrize("default", ["document", "query", None])
@pytest.mark.parametrize("prompts", [{}, PROMPTS])
def test_a_saved_router_has_their_vectors_for_each_role(saved, default, prompts):
    assert_same(saved(default=default, prompts=prompts))


def test_modules_after_the_router_are_of_both_routes(saved):
    norm = modules.LayerNorm(TEACHER_WIDTH)
    norm.norm.weight.data = torch.rand(TEACHER_WIDTH)
    folder = saved(norm, modules.Normalize(), truncate_dim=7, prompts=PROMPTS, default_prompt_name="sts")
    assert_same(folder)
    model = minilm.load(folder)
    assert model.routes.width == 7
    assert [type(one) for one in model.embedding.modules] == [LayerNorm, Normalize]


def test_one_encoder_may_serve_both_routes_before_one_pooling(saved):
    folder = saved(modules.Pooling(TEACHER_WIDTH, "max"), pooled_inside=False)
    ours, theirs = minilm.load(folder), theirs_of(folder)
    assert_equal(ours.encode(TEXTS, role="query"), theirs.encode_query(TEXTS))


def test_without_a_default_a_role_is_required(saved):
    folder = saved(default=None, allow_empty=False)
    model = minilm.load(folder)
    assert_equal(model.encode(TEXTS, role="query"), theirs_of(folder).encode_query(TEXTS))
    with pytest.raises(
        UsageError, match=r"saved has an encoder for queries .*, and no default; expected role='query' "
    ):
        model.encode(TEXTS)
    with pytest.raises(ValueError, match="Could not determine route"):
        theirs_of(folder).encode(TEXTS)
    fresh, vectors = minilm.load(folder), np.eye(TEACHER_WIDTH, dtype=np.float32)
    assert_equal(fresh.similarity(vectors, vectors), theirs_of(folder).similarity(vectors, vectors).numpy())
    assert not fresh._loaded, "the similarity is that of the folder"


@pytest.mark.parametrize("default", ["query", None])
def test_as_a_teacher_it_has_the_encoder_and_prompt_of_the_role(saved, tmp_path, default):
    """A role is required: a default route would make one text vectors that another role is for."""
    folder = saved(default=default, prompts=PROMPTS)
    theirs = theirs_of(folder)

    def teacher(role):
        return TeacherVectors(find_teacher(str(folder), role), tmp_path, texts=sha256_texts(TEXTS), max_tokens=64)

    query, document = teacher("query"), teacher("document")
    assert_equal(query.load_teacher().encode(TEXTS, TEXTS, prompt=query.prompt), theirs.encode_query(TEXTS))
    assert_equal(document.load_teacher().encode(TEXTS, TEXTS, prompt=document.prompt), theirs.encode_document(TEXTS))
    assert query.folder != document.folder
    with pytest.raises(UsageError, match=r"saved has an encoder for queries .*; set task.role to query or document"):
        teacher(None)


def test_both_encoders_have_one_range_of_int8(student, teacher, tmp_path):
    """Vectors of two ranges could not be compared, so those of the two models are left out."""
    for folder in (student, teacher):
        write_symmetric_range(folder / VECTOR_RANGES, 9.0)
    minilm.write_asymmetric(query=student, document=teacher, out=tmp_path / "written")
    model = minilm.load(tmp_path / "written")
    with pytest.raises(UsageError, match=r"written has no vector_ranges.json"):
        model.encode(TEXTS, role="query", vectors="int8")
    write_symmetric_range(tmp_path / "written" / VECTOR_RANGES, 3.0)
    for role in ("query", "document"):
        found = model.encode(TEXTS, role=role, vectors="int8")
        assert_equal(found, quantized(model.encode(TEXTS, role=role), "int8", model.route(role).vector_ranges(24)))
    for folder in (student, teacher):
        (folder / VECTOR_RANGES).unlink()


def test_only_the_encoder_of_the_role_is_read(written):
    weights = written / "document_0_Transformer" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    model = minilm.load(written)
    assert "queries" not in repr(model)
    assert "encoder for query (bert, 2 layers of width 16, up to 9 tokens) and document (bert, 2 layer" in repr(model)
    assert model.encode("a", role="query").shape == (TEACHER_WIDTH,)
    assert not hasattr(model, "shape")
    with pytest.raises(DataError, match=r"document_0_Transformer/model.safetensors"):
        model.encode("a", role="document")


@pytest.mark.parametrize("engine", ["torch", "native"])
def test_every_engine(written, engine):
    if engine == "native" and find_library().path is None:
        pytest.skip("the kernels are not built")
    assert_equal(
        minilm.load(written, engine=engine).encode(TEXTS, role="query"), theirs_of(written).encode_query(TEXTS)
    )


# --- writing -------------------------------------------------------------------------------------


def test_what_is_written_has_the_vectors_of_its_models_in_both_libraries(written, student, teacher):
    assert_same(written)
    model = minilm.load(written)
    for role, folder in (("query", student), ("document", teacher)):
        assert_equal(model.encode(TEXTS, role=role), minilm.load(folder).encode(TEXTS, role=role))
        assert_equal(model.encode(TEXTS, role=role), theirs_of(folder).encode(TEXTS, prompt_name=role))
    assert theirs_of(written).similarity_fn_name == "dot"
    names = {path.name for path in written.iterdir()}
    assert {"query_0_Transformer", "query_1_Pooling", "query_2_Dense"} <= names
    assert {"document_0_Transformer", "document_1_Pooling", "router_config.json", "modules.json"} <= names


def test_what_they_save_from_it_reads_back(written, tmp_path):
    theirs_of(written).save(str(tmp_path / "again"))
    first, second = minilm.load(written), minilm.load(tmp_path / "again")
    for role in ("query", "document"):
        np.testing.assert_array_equal(first.encode(TEXTS, role=role), second.encode(TEXTS, role=role))


def test_an_encoder_in_a_folder_of_its_own_is_found(student, teacher, written, tmp_path):
    inner = tmp_path / "other" / "0_Transformer"
    shutil.copytree(teacher, inner)
    for name in ("modules.json", "1_Pooling", "config_sentence_transformers.json"):
        shutil.move(inner / name, tmp_path / "other" / name)
    listed = json.loads((tmp_path / "other" / "modules.json").read_text())
    listed[0]["path"] = "0_Transformer"
    (tmp_path / "other" / "modules.json").write_text(json.dumps(listed))
    minilm.write_asymmetric(query=student, document=tmp_path / "other", out=tmp_path / "second")
    files = {path.relative_to(tmp_path / "second") for path in (tmp_path / "second").rglob("*")}
    assert files == {path.relative_to(written) for path in written.rglob("*")}


def test_prompts_of_other_roles_are_left_out_and_named(student, teacher, tmp_path, caplog):
    other = shutil.copytree(student, tmp_path / "other")
    changed(other / "config_sentence_transformers.json", prompts=PROMPTS, default_prompt_name="sts")
    minilm.write_asymmetric(query=other, document=teacher, out=tmp_path / "out")
    assert "left out 2 prompts, which are not of the role 'query': document, sts" in caplog.text
    assert_same(tmp_path / "out")


def test_a_default_prompt_of_documents_is_that_of_texts_without_a_role(student, teacher, tmp_path):
    other = shutil.copytree(teacher, tmp_path / "other")
    changed(other / "config_sentence_transformers.json", default_prompt_name="document")
    minilm.write_asymmetric(query=student, document=other, out=tmp_path / "out")
    assert_same(tmp_path / "out")
    assert_equal(minilm.load(tmp_path / "out").encode(TEXTS), minilm.load(other).encode(TEXTS))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modules": ()}, "width of the vectors: found 16 in .* and 24 in .*; expected the same"),
        ({"truncate_dim": 24}, "truncate_dim of the vectors: found 24 in .* and None in"),
        ({"similarity": "cosine"}, "similarity_fn_name of the vectors: found cosine in .* and dot in"),
    ],
)
def test_vectors_that_do_not_compare_are_rejected(student, teacher, tmp_path, changes, message):
    weight = np.ones((TEACHER_WIDTH, STUDENT_WIDTH), np.float32)
    settings = EmbeddingSettings(**{"modules": (Dense(weight=weight),), **changes})
    other = shutil.copytree(student, tmp_path / "other")
    (other / "config_sentence_transformers.json").unlink()
    write_embedding(other, settings, hidden_size=STUDENT_WIDTH)
    with pytest.raises(DataError, match=message):
        minilm.write_asymmetric(query=other, document=teacher, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_exists_and_one_that_does_not(student, written, tmp_path):
    with pytest.raises(UsageError, match="written already exists"):
        minilm.write_asymmetric(query=student, document=student, out=written)
    with pytest.raises(DataError, match="none: no such model folder"):
        minilm.write_asymmetric(query=student, document=tmp_path / "none", out=tmp_path / "out")
    with pytest.raises(DataError, match=r"an asymmetric model .*; expected a model with one"):
        minilm.write_asymmetric(query=student, document=written, out=tmp_path / "out")


# --- damaged folders, and what does not run ------------------------------------------------------


def structure(**changes):
    return lambda folder: changed(folder / "router_config.json", structure={**STRUCTURE, **changes})


STRUCTURE = {
    "query": ["query_0_Transformer", "query_1_Pooling", "query_2_Dense"],
    "document": ["document_0_Transformer", "document_1_Pooling"],
}


def types(**changes):
    def change(folder):
        file = folder / "router_config.json"
        changed(file, types={**json.loads(file.read_text())["types"], **changes})

    return change


def parameters(**values):
    return lambda folder: changed(folder / "router_config.json", parameters=values)


def unpickles(folder):
    """A module whose weights run code when they are unpickled."""
    (folder / "query_2_Dense" / "model.safetensors").unlink()

    class Code:
        def __reduce__(self):
            return os.system, (f"touch {folder / 'executed'}",)

    (folder / "query_2_Dense" / "pytorch_model.bin").write_bytes(pickle.dumps(Code()))


def wrong_shape(folder):
    arrays = {"linear.weight": np.ones((3, 3), np.float32), "linear.bias": np.ones(3, np.float32)}
    save_file(arrays, folder / "query_2_Dense" / "model.safetensors")


def router_twice(folder):
    listed = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps([*listed, {**listed[0], "name": "1"}]))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "query_2_Dense" / "model.safetensors").unlink(), "query_2_Dense: no weights; expect"),
        (wrong_shape, r"query_2_Dense/model.safetensors: tensors .*; expected .*\(24, 16\)"),
        (unpickles, "query_2_Dense/pytorch_model.bin"),
        (lambda folder: (folder / "router_config.json").unlink(), "router_config.json"),
        (lambda folder: (folder / "router_config.json").write_text("["), "router_config.json"),
        (structure(query=["query_0_Transformer"]), "modules Transformer; expected one Transformer, one Pooling"),
        (structure(query=["query_1_Pooling"]), "modules Pooling; expected one Transformer, one Pooling"),
        (structure(query=[]), r"route 'query' is \[\]; expected a list of names from types"),
        (structure(query=["nothing"]), r"route 'query' is \['nothing'\]; expected a list of names from types"),
        (structure(query=[["x"]]), "route 'query' is .*; expected a list of names from types"),
        (structure(third=["query_0_Transformer"]), "routes 'query', 'document', 'third'; expected 'query' and 'docu"),
        (structure(query=STRUCTURE["query"][:2]), "vectors of queries have width 16, those of documents 24; expected"),
        (types(query_2_Dense="sentence_transformers.models.CNN"), "module 'CNN'; expected Transformer, Pooling, then"),
        (types(query_2_Dense="my_code.Dense"), "module 'my_code.Dense'; expected Transformer, Pooling, then"),
        (types(query_2_Dense=3), "expected a text for each of type and path"),
        (lambda folder: changed(folder / "router_config.json", types=[]), "expected an object for each of types and"),
        (parameters(default_route="other"), "default_route is 'other'; expected 'query' or 'document', or null"),
        (parameters(allow_empty_key=3), "allow_empty_key is 3; expected true or false"),
        (parameters(route_mappings={"('query', None)": "document"}), "route_mappings is .*; expected {}; encode with"),
        (parameters(weights=3), "unknown key weights with value 3"),
        (lambda folder: changed(folder / "router_config.json", parameters=[1]), "parameters is .*; expected an object"),
        (router_twice, "modules Router, Router; expected one Router, before all others"),
        (lambda folder: shutil.rmtree(folder / "query_0_Transformer"), "query_0_Transformer"),
    ],
)
def test_a_damaged_or_other_router_is_one_error(written, damage, message):
    damage(written)
    with pytest.raises(DataError, match=message) as caught:
        minilm.load(written)
    assert str(written) in str(caught.value)
    assert not (written / "executed").exists()


@pytest.mark.parametrize("path", ["../x", "/x"])
def test_a_route_outside_the_folder_is_rejected(written, path):
    types(**{path: "sentence_transformers.models.Transformer"})(written)
    structure(query=[path, "query_1_Pooling"])(written)
    with pytest.raises(DataError, match=f"path '{path}' leads out of the model folder"):
        minilm.load(written)


def test_what_needs_one_encoder_refuses_by_name(written, tmp_path):
    for action in (
        lambda: quantize(written, tmp_path / "int8"),
        lambda: bench_encode(written, texts=["a"]),
        lambda: minilm.read_model(written),
        lambda: minilm.Tokenizer.load(written),
    ):
        with pytest.raises(
            DataError, match=r"modules.json: an asymmetric model \(Router\), which has several encoders"
        ):
            action()
    with pytest.raises(UsageError, match=r"written cannot .*: it has no trained head.*; for vectors use enco"):
        minilm.load(written).classify(["a"])
    with pytest.raises(UsageError, match="an asymmetric model, which minilm quantize does not write; expected precis"):
        minilm.load(written, precision="int8")
    assert not Path(tmp_path / "int8").exists()
