"""Token buckets of many clients."""

from notellm.serve import rates as module


def test_rates_of_many_clients_do_not_stay_in_memory(monkeypatch):
    monkeypatch.setattr(module, "_REMEMBERED", 5)
    buckets = module.TokenBuckets(1.0, 1.0)
    for i in range(20):
        assert buckets.take(str(i).encode()) == 0
    assert len(buckets) == 5
    assert buckets.take(b"19") > 0
