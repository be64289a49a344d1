"""The feed: reads a snapshot into a training job, deterministically and resumably."""

from tokenmill.feed.columns import Batch
from tokenmill.feed.feed import Feed
from tokenmill.feed.files import ShardCache
from tokenmill.feed.follow import Follow
from tokenmill.feed.order import Order
from tokenmill.feed.packing import Packing
from tokenmill.feed.parts import Mixture, Part

__all__ = ["Batch", "Feed", "Follow", "Mixture", "Order", "Packing", "Part", "ShardCache"]
