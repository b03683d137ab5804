"""Pictures of labels and partitions show the numbers that they are given."""

import numpy as np
import pytest

from bayesmix import plots
from bayesmix.plots import common, labels
from bayesmix.posterior import arviz_compat
from bayesmix.posterior.labels import label_switching
from bayesmix.posterior.point_partition import point_partition
from bayesmix.posterior.relabelling_comparison import compare_relabellings
from bayesmix.posterior.relabelling_methods import PRA, OrderBy
from tests.examples import example_draws


def draws_of(size, chains=2):
    """Draws of a posterior with ``size`` components that never switch."""
    mean = np.arange(size) * 9.0 + np.random.default_rng(0).normal(size=(chains, 40, size))
    attrs = {"posterior": {"label_dims": "component", "exchangeable": "yes"}}
    return arviz_compat.make({"posterior": {"mean": mean}}, None, {"mean": ["component"]}, attrs)


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_pairs_that_switched_are_counted_chain_by_chain():
    report = label_switching(example_draws(chains=3))
    figure = plots.plot_switched_pairs(report)
    assert len(figure.axes) == 3
    for chain, axes in enumerate(figure.axes):
        assert texts(axes) == [str(count) for count in report.pairs["component"][chain].ravel()]
        assert f"chain {chain}: {report.switches[chain]} switches" == axes.get_title(loc="left")


@pytest.mark.parametrize(("size", "chains"), [(1, 1), (3, 6), (20, 2)])
def test_any_number_of_components_and_chains(size, chains):
    report = label_switching(draws_of(size, chains))
    figure = plots.plot_switched_pairs(report)
    assert len(figure.axes) == min(chains, labels.MAX_CHAINS)
    assert bool(texts(figure.axes[0])) == (size <= 14)  # entries, where there is room for them
    with pytest.raises(ValueError, match="no label dimension state in this report; it has: comp"):
        plots.plot_switched_pairs(report, "state")


def test_agreement_shows_shares_and_confidence_and_marks_the_best():
    comparison = compare_relabellings(example_draws())
    left, right = plots.plot_agreement(comparison).axes
    shares = comparison.agreement.to_numpy().ravel()
    assert texts(left) == [f"{share:.2f}" for share in shares]
    widths = [bar.get_width() for bar in right.patches]
    np.testing.assert_allclose(widths, comparison.table["confidence"])
    dark = [bar.get_facecolor()[:3] for bar in right.patches]
    assert dark.count(tuple(int(common.INK[i : i + 2], 16) / 255 for i in (1, 3, 5))) == 1


def test_without_labels_of_rows_there_is_no_confidence_to_show():
    comparison = compare_relabellings(draws_of(3), {"a": PRA(), "b": OrderBy("mean")})
    _, right = plots.plot_agreement(comparison).axes
    assert texts(right) == ["no labels of rows"] * 2
    assert str(comparison).startswith("there are no labels of rows")


def test_similar_rows_lie_together_and_clusters_are_marked(monkeypatch):
    z = np.tile([0, 1, 2, 1, 0, 1], (30, 1))
    z[:10, 3] = 2
    partition = point_partition(z)
    axes, scale = plots.plot_similarity(partition).axes
    image = np.asarray(axes.images[0].get_array())
    assert (
        sorted(image[np.triu_indices(6, 1)].round(2))
        == [0.0] * 10 + [0.33] + [0.67] * 2 + [1.0] * 2
    )
    assert len(axes.lines) == 2 * (partition.num_clusters - 1)
    assert "sharing a component" in scale.get_ylabel()
    monkeypatch.setattr(labels, "MAX_ROWS", 4)
    axes, _ = plots.plot_similarity(partition).axes
    assert axes.images[0].get_array().shape == (4, 4)
    assert "(4 of 6 rows)" in axes.figure.get_suptitle()
