"""The feed: reads a snapshot into a training job, deterministically and resumably."""

from tokenmill.feed.columns import Batch
from tokenmill.feed.feed import Feed
from tokenmill.feed.parts import Mixture, Part
from tokenmill.feed.sequence.follow import Follow
from tokenmill.feed.sequence.order import Order
from tokenmill.feed.sequence.packing import Packing
from tokenmill.feed.shards.files import ShardCache

__all__ = ["Batch", "Feed", "Follow", "Mixture", "Order", "Packing", "Part", "ShardCache"]
