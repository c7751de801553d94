from dposcope.data.masking import contains_offensive, mask_offensive
from dposcope.data.seeds import load_seeds


def test_the_seeds_are_those_of_table_7():
    seeds = load_seeds()
    assert [mask_offensive(seed) for seed in seeds.toxic] == ["f*ck", "sh*t", "cr*p", "d*mn", "a**hole"]
    assert seeds.non_toxic == ("hello", "thanks", "friend", "peace", "welcome")


def test_only_the_toxic_ones_are_offensive():
    seeds = load_seeds()
    assert all(map(contains_offensive, seeds.toxic))
    assert not any(map(contains_offensive, seeds.non_toxic))
