"""Subset load balancing: ``lb_subset_config``, its extension, and what a route asks by ``metadata_match``."""

from __future__ import annotations

from typing import Any

from meshlib.model.balancing import Fallback, Subsets, SubsetSelector
from meshlib.model.metadata import Criteria, criteria
from meshlib.xds.decode_values import choice, plain_struct
from meshlib.xds.scope import Scope

# LbSubsetFallbackPolicy and LbSubsetSelectorFallbackPolicy, by number.
_FALLBACKS = (Fallback.NO_FALLBACK, Fallback.ANY_ENDPOINT, Fallback.DEFAULT_SUBSET)
_SELECTOR_FALLBACKS = (Fallback.NOT_DEFINED, *_FALLBACKS, Fallback.KEYS_SUBSET)


def metadata_match(message: Any) -> Criteria:
    """Return what the ``metadata_match`` of a route or weighted cluster asks of endpoints: its ``envoy.lb``."""
    metadata = message.metadata_match.filter_metadata
    return criteria(plain_struct(metadata["envoy.lb"])) if "envoy.lb" in metadata else ()


def subsets(scope: Scope, config: Any) -> Subsets:
    """Return a ``Cluster.LbSubsetConfig`` or a ``Subset`` extension."""
    scope.audit(config)
    return Subsets(
        selectors=tuple(_selector(scope.at("subset_selectors", i), s) for i, s in enumerate(config.subset_selectors)),
        fallback=_FALLBACKS[choice(scope, config, "fallback_policy")],
        default_subset=criteria(plain_struct(config.default_subset)),
        locality_weight_aware=config.locality_weight_aware,
        scale_locality_weight=config.scale_locality_weight,
        panic_mode_any=config.panic_mode_any,
        list_as_any=config.list_as_any,
        fallback_list=choice(scope, config, "metadata_fallback_policy") == 1,
        # The old message has no such field.
        redundant_keys=getattr(config, "allow_redundant_keys", False),
    )


def _selector(scope: Scope, selector: Any) -> SubsetSelector:
    scope.audit(selector)
    keys, fewer = set(selector.keys), set(selector.fallback_keys_subset)
    fallback = _SELECTOR_FALLBACKS[choice(scope, selector, "fallback_policy")]
    if fallback is not Fallback.KEYS_SUBSET:
        if fewer:
            scope.fault("fallback_keys_subset", "goes with fallback_policy KEYS_SUBSET alone")
    elif not fewer:
        scope.fault("fallback_keys_subset", "must not be empty with fallback_policy KEYS_SUBSET")
    elif not fewer < keys:
        scope.fault("fallback_keys_subset", "must be some of the selector's keys and not all of them")
    return SubsetSelector(tuple(sorted(keys)), fallback, tuple(sorted(fewer)), selector.single_host_per_subset)
