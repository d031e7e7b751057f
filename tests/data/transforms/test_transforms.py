"""The grammar, the order and the chance of the four transforms."""

from __future__ import annotations

import pytest

from expunge.core.errors import ConfigError, DataError
from expunge.data.examples import ANSWER, Example, ExampleSet
from expunge.data.transforms.apply import TransformItem, transform_item
from expunge.data.transforms.draws import Draws
from expunge.data.transforms.grammar import Rules, parse_rules, variant_name
from expunge.data.transforms.rows import transform_rows

KEYS = ("features", "words")


def rules(**settings: str) -> Rules:
    return parse_rules(**settings, keys=KEYS)


def item(*features: str, words: tuple[str, ...] = (), length: int = 10, record_id: str = "a") -> TransformItem:
    return TransformItem(record_id, {"features": features, "words": words}, length)


def after(start: TransformItem, **settings: str) -> dict[str, tuple[str, ...]] | None:
    changed = transform_item(start, rules(**settings), Draws(0, start.record_id))
    return None if changed is None else dict(changed.values)


@pytest.mark.parametrize(
    ("filtering", "rest"),
    [
        ("features=Twist", True),
        ("features!=Twist", False),
        ("features=twist", False),  # case counts
        ("features=Twis", False),  # membership, not a part of the text
        ("features=Twist,features!=Conflict", True),
        ("features=Twist,features=Conflict", False),
        ("words!=dog,length=9", True),
        ("length=10", False),  # more than VALUE, not at least
        ("length!=10", True),
    ],
)
def test_a_filter_keeps_what_satisfies_every_condition(filtering: str, rest: bool) -> None:
    assert (after(item("Dialogue", "Twist", words=("cat",)), filtering=filtering) is not None) == rest


def test_mix_match_with_one_pair_relabels() -> None:  # the published code does nothing here
    assert after(item("Dialogue", "Foreshadowing"), mix_match="features:Foreshadowing=Twist") == {
        "features": ("Dialogue", "Twist"),
        "words": (),
    }


@pytest.mark.parametrize(
    "mix", ["features:A=B:C=D", "features=A:B=C:D", "features:A=B=C=D", "features:A=B,features:C=D"]
)
def test_mix_match_takes_many_pairs_and_many_rules_of_a_key(mix: str) -> None:
    result = after(item("A", "C", "E", words=("A",)), mix_match=mix)
    assert result == {"features": ("B", "D", "E"), "words": ("A",)}


def test_pairs_of_mix_match_act_at_once_and_list_no_value_twice() -> None:
    assert after(item("A", "B", "C"), mix_match="features:A=B:B=A")["features"] == ("B", "A", "C")
    assert after(item("A", "B"), mix_match="features:A=B")["features"] == ("B",)


def test_the_order_is_filter_mix_adversarial_refusal() -> None:
    # the filter sees the values before mix_match; what is appended is not relabelled
    result = transform_item(
        item("A"),
        rules(filtering="features!=B", mix_match="features:A=B:C=D", adversarial_training="features=C:1",
              refusal="features=E:1.0"),
        Draws(0, "a"),
    )  # fmt: skip
    assert result is not None and result.values["features"] == ("B", "C", "E") and result.refused == ("E",)


def test_many_items_of_a_key_each_have_their_own_chance() -> None:
    result = [
        transform_item(
            item(record_id=str(i)), rules(adversarial_training="features=A:0.3,features=B:0.6"), Draws(7, str(i))
        )
        for i in range(4000)
    ]
    a, b, both = (
        sum(want <= set(m.values["features"]) for m in result if m) / len(result) for want in ({"A"}, {"B"}, {"A", "B"})
    )
    # four standard deviations of a share of 4000: 0.029, 0.031, 0.024
    assert abs(a - 0.3) < 0.029 and abs(b - 0.6) < 0.031 and abs(both - 0.18) < 0.025


def test_probabilities_zero_and_one_are_never_and_always() -> None:
    for i in range(200):
        now = after(item(record_id=str(i)), adversarial_training="features=A:0,words=w:1")
        assert now == {"features": (), "words": ("w",)}


def test_draws_belong_to_the_record_the_seed_and_the_purpose() -> None:
    assert Draws(1, "a").number("x") == Draws(1, "a").number("x")
    assert len({Draws(s, r).number(p) for s in (1, 2) for r in ("a", "b") for p in ("x", "y")}) == 8
    orders = [tuple(Draws(0, str(i)).order("order", "abc")) for i in range(6000)]
    counts = [orders.count(o) for o in set(orders)]
    assert len(counts) == 6 and all(abs(c - 1000) < 116 for c in counts)  # four standard deviations


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"filtering": "feature=Twist"}, "filtering: character 1: unknown key 'feature'; did you mean 'features'"),
        ({"filtering": "features=A,wrds!=b"}, "filtering: character 12: unknown key 'wrds'; did you mean 'words'"),
        ({"filtering": "features"}, "filtering: character 1: expected KEY=VALUE or KEY!=VALUE, got 'features'"),
        ({"filtering": "features=A,"}, "filtering: character 12: expected KEY=VALUE"),
        ({"filtering": "features=a=b"}, "filtering: character 1: expected KEY=VALUE"),
        ({"filtering": "length=long"}, "filtering: character 8: length takes a whole number of characters, got 'long'"),
        ({"mix_match": "features:A"}, "mix_match: character 1: expected KEY:OLD=NEW"),
        ({"mix_match": "features:A=B:C"}, "mix_match: character 1: expected KEY:OLD=NEW"),
        ({"mix_match": "words:a=b,feature:A=B"}, "mix_match: character 11: unknown key 'feature'"),
        ({"mix_match": "features:A=B,features:A=C"}, "'A' would become both 'B' and 'C'"),
        ({"adversarial_training": "features=A"}, "character 1: expected KEY=VALUE:PROBABILITY, got 'features=A'"),
        ({"adversarial_training": "features=A:1.5"}, "character 12: a probability lies between 0 and 1, got '1.5'"),
        ({"refusal": "features=A:-0.1"}, "refusal: character 12: a probability lies between 0 and 1, got '-0.1'"),
        ({"refusal": "features=A:nan"}, "a probability lies between 0 and 1, got 'nan'"),
        ({"refusal": "features=A:often"}, "a probability lies between 0 and 1, got 'often'"),
        ({"refusal": "length=3:1"}, "unknown key 'length'"),
        ({"refusal": "words=a:1,words=a:0.5"}, "refusal: character 11: words=a occurs twice"),
    ],
)  # fmt: skip
def test_what_does_not_parse_is_refused_with_its_place(settings: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        rules(**settings)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_the_automatic_name() -> None:
    name = variant_name("features!=Twist", None, "features=Twist:1.0")
    assert name == "F_features_x_Twist_MM_none_AT_features_Twist_1.0_RF_none_IS_none"
    assert variant_name("length=5,words=a", "words:a=b", None, "words=c:0.5", "Words,Features") == (
        "F_length_5_words_a_MM_words_a_b_AT_none_RF_words_c_0.5_IS_Words_Features"
    )


PEOPLE = ExampleSet(
    "people",
    tuple(
        Example(
            i, f"Where does {name} live?", {ANSWER: city, "paraphrase": f"in {city}"}, meta={"kind": kind, "tags": tags}
        )
        for i, (name, city, kind, tags) in enumerate(
            [("Ann", "Oslo", "home", ["a"]), ("Bob", "Rome", "work", ["a", "b"]), ("Cy", "Lima", "home", [])]
        )
    ),
)


def test_rows_are_transformed_by_the_same_rules() -> None:
    result = transform_rows(
        PEOPLE,
        parse_rules("kind=home", "tags:a=z", None, "kind=secret:1", keys=("kind", "tags")),
        refusals=["I do not know."],
    )
    assert [r.row_id for r in result] == [0, 1] and [r.meta["source_row"] for r in result] == [0, 2]
    assert result[0].question == "Tags: z\nKind: home, secret\nWhere does Ann live?"
    assert result[0].answers == {ANSWER: "I do not know."} and result[0].meta["refused"] == ["secret"]
    assert result[0].meta["kind"] == ["home", "secret"] and result[0].meta["tags"] == ["z"]
    assert result[1].question.startswith("Tags: \n")


def test_a_filter_alone_leaves_rows_as_they_are() -> None:
    result = transform_rows(PEOPLE, parse_rules("tags=b", keys=("tags",)), refusals=[])
    assert result[0].question == "Where does Bob live?" and result[0].answers == PEOPLE[1].answers
    with pytest.raises(DataError, match=r"^filtering: none of the 3 rows of people is left$"):
        transform_rows(PEOPLE, parse_rules("tags=c", keys=("tags",)), refusals=[])
    with pytest.raises(DataError, match=r"^people row 0: no 'tag' in its metadata; did you mean 'tags'"):
        transform_rows(PEOPLE, parse_rules("tag=c", keys=("tag",)), refusals=[])
