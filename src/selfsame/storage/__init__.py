"""Where data lie: folders, lists, shards, on this machine's disks or at an address. Knows no modality."""
