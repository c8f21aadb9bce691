"""Work of the kinds that services in Python do, without end."""

import json
import re
import zlib


class Tree:
    """A search tree, by recursion."""

    def __init__(self, key):
        self.key = key
        self.left = None
        self.right = None

    def insert(self, key):
        side = "left" if key < self.key else "right"
        below = getattr(self, side)
        if below is None:
            setattr(self, side, Tree(key))
        else:
            below.insert(key)

    def sum(self):
        below = sum(side.sum() for side in (self.left, self.right) if side)
        return self.key + below


def plant(count):
    tree = Tree(count * 7919 // 2 % 4099)
    for i in range(count):
        tree.insert(i * 7919 % 4099)
    return tree.sum()


def order(count):
    rows = [{"id": i, "name": f"name {i * 7919 % 4099}"} for i in range(count)]
    rows.sort(key=lambda row: row["name"])
    return json.loads(json.dumps(rows))


def shout(match):
    return match.group(0).upper()


def rewrite(rows):
    text = " ".join(row["name"] for row in rows)
    return re.sub(r"[a-z]+ [0-9]*7", shout, text)


def main():
    while True:
        plant(300)
        zlib.compress(rewrite(order(400)).encode())


main()
