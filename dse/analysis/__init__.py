"""``dse analyze``: how sensitive each layer is to each way of compressing it, and why.

``settings`` and ``records`` are plain data, ``folder`` keeps one analysis from writing over another, ``distributions``
knows the oracles, ``branches``, ``site`` and ``measure`` run the network, ``repairs`` converts the baselines;
``summary``, ``tables``, ``figures``, ``page`` and ``console`` show records without torch.
"""
