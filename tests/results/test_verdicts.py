"""The verdicts against SciPy, and how often they are wrong, by simulation."""

import numpy as np
import pytest
from scipy import stats

from common.comparison import LEVEL
from results.verdicts import MOST_TRIED, Distance, judge

STUDIES = 4000
MARGIN = 1.0
# Three Monte Carlo errors of a share of 5 %.
LIMIT = LEVEL + 3 * (LEVEL * (1 - LEVEL) / STUDIES) ** 0.5
DEVIATIONS = (0.1, 0.3, 1.0, 3.0, 10.0)


def words(gap, deviation, n, source_deviation=None, looks=(None,)):
    """The verdicts of simulated studies: our runs lie around 0, the source's one run around -gap."""
    rng = np.random.default_rng([n, abs(round(100 * gap)), round(100 * deviation)])
    ours = rng.normal(0.0, deviation, (STUDIES, n))
    published = rng.normal(-gap, source_deviation or deviation, STUDIES)
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Distance, "seeds_needed", lambda *_: None)  # three quarters of the time, and no part of the word
        for values, number in zip(ours, published, strict=True):
            for look in looks:
                verdict = judge(values[:look], number, MARGIN, looks=len(looks))
                if verdict.word != "undecided":
                    break
            found.append(verdict.word)
    return found


def share(found, *wanted):
    return sum(word in wanted for word in found) / len(found)


@pytest.mark.parametrize("deviation", DEVIATIONS)
@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_no_gap_is_seldom_higher_or_lower(n, deviation):
    assert share(words(0.0, deviation, n), "higher", "lower") <= LIMIT


@pytest.mark.parametrize("deviation", DEVIATIONS)
@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_a_gap_of_the_margin_is_seldom_reproduced(n, deviation):
    assert share(words(MARGIN, deviation, n), "reproduced") <= LIMIT


@pytest.mark.parametrize("deviation", DEVIATIONS)
def test_looking_at_3_5_and_10_seeds_errs_no_more(deviation):
    looks = (3, 5, 10)
    assert share(words(0.0, deviation, 10, looks=looks), "higher", "lower") <= LIMIT
    assert share(words(MARGIN, deviation, 10, looks=looks), "reproduced") <= LIMIT


def test_noise_is_not_rewarded():
    """The rule before this one called a gap of four margins reproduced in a quarter of the studies like these."""
    assert share(words(4.0, 3.0, 3), "reproduced") < 0.001


def test_small_spread_is_decided():
    assert share(words(0.0, 0.1, 3), "reproduced") > 0.9
    assert share(words(3.0, 0.1, 3), "higher") > 0.9
    assert share(words(-3.0, 0.1, 3), "lower") > 0.9


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_a_source_that_varies_twice_as_much_as_we_do_is_called_apart_too_often(n):
    """Assumed, and said: the source's deviation equals ours. If it is twice ours, this is the price."""
    wider = np.sqrt((2**2 + 1 / n) / (1 + 1 / n))
    expected = 2 * stats.t.sf(stats.t.ppf(1 - LEVEL / 2, n - 1) / wider, n - 1)  # 9, 14, 21 and 27 %
    found = share(words(0.0, 10.0, n, 20.0), "higher", "lower")
    assert found == pytest.approx(expected, abs=3 * (expected * (1 - expected) / STUDIES) ** 0.5)


def test_intervals_are_those_of_scipy():
    values, margin = [1.0, 1.2, 0.9, 1.3], 0.7
    mean, deviation = np.mean(values), np.std(values, ddof=1)
    scale = deviation * np.sqrt(1 + 1 / 4)
    for published in np.linspace(0.0, 2.2, 45):
        gap = mean - published
        low, high = stats.t.interval(0.9, 3, loc=gap, scale=scale)
        below, above = stats.t.interval(0.95, 3, loc=gap, scale=scale)
        apart = "higher" if below > 0 else "lower" if above < 0 else "undecided"
        expected = "reproduced" if -margin <= low and high <= margin else apart
        assert judge(values, published, margin).word == expected


def test_the_choice_of_test_images_counts_once_a_side_whatever_n_is():
    values, published = [50.0, 50.4, 49.8, 50.2, 50.1], 53.0
    deviation, images = np.std(values, ddof=1), 1.5
    reach = stats.t.ppf(0.95, 4) * np.sqrt(deviation**2 * (1 + 1 / 5) + images**2)
    gap = published - np.mean(values)
    assert judge(values, published, gap + reach + 0.01, images=images).word == "reproduced"
    assert judge(values, published, gap + reach - 0.01, images=images).word == "undecided"
    assert judge(values, published, 1.0, images=images).word == "undecided"
    assert judge(values, published, 1.0).word == "lower"


@pytest.mark.parametrize("images", [0.3, 1.0, 3.0])
def test_a_part_of_the_test_images_is_seldom_apart_by_chance(images):
    """Ours are the same images in every run, so their chance does not fall with n."""
    rng = np.random.default_rng(round(10 * images))
    found = []
    for _ in range(STUDIES):
        ours, theirs = rng.normal(0.0, images / np.sqrt(2), 2)
        values = ours + rng.normal(0.0, 1.0, 5)
        found.append(judge(values, theirs + rng.normal(0.0, 1.0), MARGIN, images=images).word)
    assert share(found, "higher", "lower") <= LIMIT


@pytest.mark.parametrize("looks", [1, 3])
def test_a_verdict_has_the_interval_that_it_rests_on(looks):
    rng = np.random.default_rng(looks)
    for _ in range(200):
        values, published = rng.normal(rng.normal(0, 2), 1, 4), 0.5
        verdict = judge(values, published, MARGIN, looks)
        mean, scale = np.mean(values) - published, np.std(values, ddof=1) * np.sqrt(1 + 1 / 4)
        low, high = stats.t.interval(1 - 0.05 / looks, 3, loc=mean, scale=scale)
        gap = verdict.gap
        assert (gap.mean, gap.level) == (pytest.approx(mean), 1 - 0.05 / looks)
        assert (gap.mean - gap.reach, gap.mean + gap.reach) == (pytest.approx(low), pytest.approx(high))
        assert verdict.word == "reproduced" or (low <= 0 <= high) == (verdict.word == "undecided")


def test_one_run_has_a_mean_and_no_interval():
    gap = judge([1.0], 0.75, 0.5).gap
    assert (gap.mean, gap.reach) == (0.25, None)


def test_one_run_is_undecided():
    assert judge([1.0], 1.0, 0.5).word == "undecided"
    assert "two seeds" in judge([1.0], 1.0, 0.5).remedy


def test_what_would_settle_it():
    verdict = judge([0.0, 0.4, -0.4], 0.0, 1.0)
    assert verdict.word == "undecided"
    (seeds,) = [int(word) for word in verdict.remedy.split() if word.isdigit()]
    for n in (seeds - 1, seeds):
        reach = stats.t.ppf(0.95, n - 1) * 0.4 * np.sqrt(1 + 1 / n)
        assert (reach <= 1.0) == (n == seeds)
    assert judge([0.0, 3.0, -3.0], 0.0, 1.0).remedy == "one published run is too uncertain for this margin"
    assert seeds < MOST_TRIED
