"""Spec strings are read, never run; what is wrong with one is said in the user's words."""

from __future__ import annotations

import keyword
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkd.base.catalogue import parameters, summary
from fedkd.base.errors import UserError, nearest
from fedkd.base.spec import Spec, parse
from fedkd.method import METHODS
from fedkd.methods.dp_kd import DPKD
from fedkd.methods.kd import KD
from fedkd.methods.tuned_kd import TunedKD
from fedkd.models import ARCHITECTURES
from tests.small import OWN, drawn

names = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True).filter(lambda name: not keyword.iskeyword(name))
scalars = st.one_of(
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
)
values = st.recursive(scalars, lambda items: st.lists(items, max_size=3), max_leaves=6)
specs = st.builds(
    Spec,
    names,
    st.dictionaries(names, values, max_size=4),
    st.one_of(st.none(), st.just("own.py"), st.just("some folder/own-file.py")),
)


def refusal(text: str) -> str:
    """The message with which a spec is refused."""
    with pytest.raises(UserError) as refused:
        METHODS.build(text)
    return str(refused.value)


class TestReading:
    @drawn
    @given(specs)
    def test_what_is_written_is_read_back(self, spec: Spec) -> None:
        assert parse(str(spec)) == spec

    @drawn
    @given(specs)
    def test_the_canonical_spelling_is_its_own_canonical_spelling(self, spec: Spec) -> None:
        assert str(parse(str(spec))) == str(spec)

    @pytest.mark.parametrize(
        ("text", "canonical"),
        [
            ("kd", "kd"),
            ("kd()", "kd"),
            (" kd( temperature = 4.0 ) ", "kd(temperature=4.0)"),
            ('kd(teachers="one(2)")', "kd(teachers='one(2)')"),
            ("local(public=true)", "local(public=true)"),
            ("local(public=True)", "local(public=true)"),
            ("tuned_kd(temperatures=[1.0,2.0])", "tuned_kd(temperatures=[1.0, 2.0])"),
            ("own.py:mine(x=1)", "own.py:mine(x=1)"),
        ],
    )
    def test_spellings(self, text: str, canonical: str) -> None:
        assert str(parse(text)) == canonical

    def test_true_and_false_mean_what_they_mean_in_toml_also_within_lists(self) -> None:
        assert parse("x(a=true, b=false, c=[true, [false]])").arguments == {"a": True, "b": False, "c": [True, [False]]}

    def test_quoted_true_is_text(self) -> None:
        assert parse('x(a="true")').arguments == {"a": "true"}

    @pytest.mark.parametrize("text", ["kd(temperature=1.0, temperature=4.0)", "kd(a=1, b=2, a=1)"])
    def test_a_parameter_given_twice_is_refused_rather_than_dropped(self, text: str) -> None:
        with pytest.raises(UserError):
            parse(text)

    def test_a_number_too_large_to_be_written_back_is_refused(self) -> None:
        with pytest.raises(UserError):
            parse("kd(temperature=1e999)")


class TestNothingIsEvaluated:
    @pytest.mark.parametrize(
        "value",
        [
            "open({file!r}, 'w')",
            "__import__('pathlib').Path({file!r}).touch()",
            "[open({file!r}, 'w') for _ in [1]]",
            "{{open({file!r}, 'w') for _ in [1]}}",
            "{{1: open({file!r}, 'w')}}",
            "(lambda: open({file!r}, 'w'))()",
            "f\"{{open({file!r}, 'w')}}\"",
            "[*open({file!r}, 'w')]",
            "(x := open({file!r}, 'w'))",
            "open({file!r}, 'w') if true else 1",
            "open({file!r}, 'w') or 1",
            "().__class__.__bases__[0].__subclasses__()",
            "__builtins__",
            "__file__",
            "nan",
            "1 .real",
            "[1, 2][0]",
            "2 ** 3",
            "9 ** 9 ** 9",
            "'a' * 10",
            "not true",
            "1 < 2",
            "lambda: 1",
            "*[1]",
            "yield",
        ],
    )
    def test_only_literals_are_values(self, value: str, tmp_path: Path) -> None:
        file = tmp_path / "made"
        with pytest.raises(UserError):
            parse(f"kd(temperature={value.format(file=str(file))})")
        assert not file.exists()

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "   ",
            "kd(",
            "kd)",
            "kd()()",
            "kd(x=1)(y=2)",
            "kd.build()",
            "fedkd.methods.kd(x=1)",
            "[kd]",
            "'kd'",
            "1",
            "kd + local",
            "kd; local",
            "kd\nlocal",
            "kd(1.0)",
            "kd(*[1.0])",
            "kd(**{'temperature': 1.0})",
            "kd(x for x in [1])",
            "lambda: kd",
            "if",
            "dp-kd",
            "own.py:",
            "own.py:kd.x",
            "kd\0",
            "kd('\ud800')",
        ],
    )
    def test_only_names_with_named_parameters_are_specs(self, text: str) -> None:
        with pytest.raises(UserError):
            parse(text)

    def test_parameters_by_position_are_refused_with_the_form_that_is_right(self) -> None:
        assert "kd(key=value)" in refusal("kd(4.0)")

    @pytest.mark.parametrize("depth", [900, 5_000, 100_000])
    @pytest.mark.parametrize(
        ("before", "core", "after"),
        [
            ("[", "", "]"),
            ("(", "1", ")"),
            ("{1:", "1", "}"),
            ("-", "1", ""),
            ("not ", "1", ""),
            ("lambda:", "1", ""),
            ("", "1", "+1"),
            ("", "1", "**1"),
            ("", "a", ".b"),
            ("", "a", "()"),
        ],
        ids=str.strip,
    )
    def test_deep_nesting_is_refused_like_any_other_nonsense(
        self, before: str, core: str, after: str, depth: int
    ) -> None:
        with pytest.raises(UserError):
            parse(f"kd(temperature={before * depth}{core}{after * depth})")


class TestCatalogue:
    def test_every_file_that_holds_a_method_is_a_name_and_nothing_else_is(self) -> None:
        folder = Path(METHODS.package.replace(".", "/"))
        files = {file.stem for file in (Path(__file__).parents[1] / folder).glob("*.py")} - {"__init__"}
        assert set(METHODS.names) == files

    def test_names_stand_for_things_that_can_be_built(self) -> None:
        for name in ARCHITECTURES.names:
            takes = "argument" in {each.name for each in parameters(ARCHITECTURES.find(parse(name)))}
            ARCHITECTURES.build(f"{name}:resnet18" if takes else name)

    def test_a_spec_string_becomes_the_object_with_its_values(self) -> None:
        assert METHODS.build('kd(temperature=4.0, weight=0.9, objective="js")') == KD(4.0, 0.9, "js")

    def test_a_whole_number_will_do_for_a_decimal_one(self) -> None:
        assert METHODS.build("kd(temperature=4)") == METHODS.build("kd(temperature=4.0)")

    def test_a_list_becomes_a_tuple_so_that_the_object_is_hashable(self) -> None:
        built = METHODS.build("tuned_kd(temperatures=[1, 2], weights=[0.5])")
        assert built == TunedKD(temperatures=(1.0, 2.0), weights=(0.5,))
        assert hash(built) == hash(TunedKD(temperatures=(1.0, 2.0), weights=(0.5,)))

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("kdd", "did you mean 'kd'?"),
            ("tunedkd", "did you mean 'tuned_kd'?"),
            ("dpkd", "did you mean 'dp_kd'?"),
            ("zzzzzz", "Known: " + ", ".join(METHODS.names)),
            ("kd(temprature=2.0)", "did you mean 'temperature'?"),
            ("dp_kd(maks='supervised')", "did you mean 'mask'?"),
            ("local(temperature=2.0)", "Known: public"),
        ],
    )
    def test_a_misspelt_name_is_answered_with_the_nearest_and_all(self, text: str, said: str) -> None:
        message = refusal(text)
        assert said in message
        assert "Known:" in message

    @pytest.mark.parametrize(
        ("text", "key", "found"),
        [
            ("kd(temperature=0)", "temperature", "0"),
            ("kd(temperature=-1.5)", "temperature", "-1.5"),
            ("kd(weight=1.5)", "weight", "1.5"),
            ("kd(weight=-0.1)", "weight", "-0.1"),
            ("kd(temperature='4')", "temperature", "'4'"),
            ("kd(temperature=true)", "temperature", "True"),
            ("kd(temperature=[4.0])", "temperature", "(4.0,)"),
            ("kd(objective='ce')", "objective", "'ce'"),
            ("kd(teachers='everybody')", "teachers", "'everybody'"),
            ("kd(teachers='one(x)')", "teachers", "'one(x)'"),
            ("kd(refresh='sometimes')", "refresh", "'sometimes'"),
            ("local(public=1)", "public", "1"),
            ("tuned_kd(temperatures=2.0)", "temperatures", "2.0"),
            ("tuned_kd(temperatures=[])", "temperatures", "()"),
            ("tuned_kd(temperatures=[1.0, 0.0])", "temperatures", "0.0"),
            ("tuned_kd(weights=[2.0])", "weights", "2.0"),
            ("tuned_kd(rounds=0)", "rounds", "0"),
            ("tuned_kd(rounds=1.0)", "rounds", "1.0"),
        ],
    )
    def test_a_wrong_value_is_named_with_its_key_and_what_was_found(self, text: str, key: str, found: str) -> None:
        message = refusal(text)
        assert key in message
        assert message.endswith(f"found {found}")

    def test_a_method_that_would_never_hear_its_teachers_is_refused(self) -> None:
        # Without reports there is nothing to distil, and a loss that needs soft labels.
        assert "refresh" in refusal('kd(refresh="never")')

    def test_values_that_do_not_go_together_are_refused_with_what_would(self) -> None:
        assert 'use merge_by="logits"' in refusal("kd(objective='mse', merge_by='probabilities')")

    @pytest.mark.parametrize(
        ("text", "key"),
        [
            ("kd(objective='mse', wire='top(3)')", "wire"),
            ("kd(revise='labels(form=\"mse\")', wire='top(3)')", "wire"),
            ("tuned(method='kd(wire=\"top(3)\")', grid={'objective': ['kl', 'mse']})", "wire"),
            ("kd(objective='mse', revise='labels(eta=0.0)')", "revise"),
            ("kd(objective='mse', revise='labels')", "revise"),
            ("kd(objective='mse', revise='labels(per_teacher=true)')", "revise"),
            ("tuned(method='kd(revise=\"labels(eta=0.5)\")', grid={'objective': ['kl', 'mse']})", "revise"),
        ],
    )
    def test_what_compares_logits_is_given_no_logarithms_of_probabilities(self, text: str, key: str) -> None:
        message = refusal(text)
        assert "compares logits" in message
        assert f"{key}=" in message

    @pytest.mark.parametrize(
        "text",
        [
            "kd(objective='mse')",
            "kd(objective='mse', wire='float32', select='teacher_correct')",
            "kd(revise='labels(eta=0.0, form=\"mse\")')",
            "kd(revise='labels(eta=0.0)', wire='top(3)')",
        ],
    )
    def test_what_has_logits_to_compare_or_compares_probabilities_may_be_run(self, text: str) -> None:
        METHODS.build(text)

    def test_nearest_offers_one_name_where_one_is_close(self) -> None:
        assert nearest("dirichlt", ["iid", "dirichlet"]) == "did you mean 'dirichlet'? Known: dirichlet, iid"
        assert nearest("xyz", ["iid", "dirichlet"]) == "Known: dirichlet, iid"

    def test_help_comes_from_the_field_and_its_docstring(self) -> None:
        shown = {parameter.name: parameter for parameter in parameters(DPKD)}
        assert shown["mask"].type == "'unsupervised' | 'supervised'"
        assert shown["mask"].default == "'unsupervised'"
        assert shown["mask"].help.startswith("where a teacher is better")
        assert summary(DPKD).startswith("Data-partitioning KD: ")


class TestOwnFile:
    @pytest.fixture
    def own(self, tmp_path: Path) -> Path:
        file = tmp_path / "own.py"
        file.write_text(OWN)
        return file

    def test_a_method_in_the_users_file_is_built_like_any_other(self, own: Path) -> None:
        built = METHODS.build(f"{own}:gentle(strength=2.0)")
        assert type(built).__name__ == "Gentle"
        assert built == METHODS.build(f"{own}:gentle(strength=2)")
        assert built != METHODS.build(f"{own}:gentle")

    def test_its_spec_is_written_back_with_the_file(self, own: Path) -> None:
        assert str(parse(f"{own}:gentle( strength=2.0 )")) == f"{own}:gentle(strength=2.0)"

    def test_its_parameters_are_checked_like_any_others(self, own: Path) -> None:
        assert "strength" in refusal(f"{own}:gentle(strength=0)")
        assert "did you mean 'strength'?" in refusal(f"{own}:gentle(strenght=1.0)")

    def test_a_name_that_is_not_in_it_is_refused_with_the_file(self, own: Path) -> None:
        message = refusal(f"{own}:harsh")
        assert "harsh" in message
        assert str(own) in message

    def test_what_it_only_imports_is_not_its_own(self, own: Path) -> None:
        assert "method" in refusal(f"{own}:method")

    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        assert "absent.py" in refusal(f"{tmp_path}/absent.py:gentle")

    def test_a_folder_is_not_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "folder.py").mkdir()
        assert "folder.py" in refusal(f"{tmp_path}/folder.py:gentle")

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ("def broken(:", "SyntaxError"),
            ("import does_not_exist_anywhere", "ModuleNotFoundError"),
            ("raise RuntimeError('no good')", "no good"),
            ("\0", "own.py"),
        ],
    )
    def test_a_file_that_cannot_be_loaded_is_named_with_the_cause(
        self, content: str, said: str, tmp_path: Path
    ) -> None:
        file = tmp_path / "own.py"
        file.write_text(content)
        message = refusal(f"{file}:gentle")
        assert "own.py" in message
        assert said in message

    def test_a_required_parameter_that_is_missing_is_named(self, tmp_path: Path) -> None:
        file = tmp_path / "own.py"
        file.write_text(OWN.replace("strength: Annotated[float, Gt(0)] = 1.0", "strength: float"))
        message = refusal(f"{file}:gentle")
        assert "strength" in message
        assert "ArgsKwargs" not in message, "the user's words, not the checker's"
