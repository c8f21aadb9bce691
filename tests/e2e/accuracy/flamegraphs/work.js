// A service whose answers take some work.

const http = require("http");

class Tree {
  constructor(key) {
    this.key = key;
  }

  insert(key) {
    const side = key < this.key ? "left" : "right";
    if (this[side]) {
      this[side].insert(key);
    } else {
      this[side] = new Tree(key);
    }
  }

  sum() {
    return this.key + (this.left ? this.left.sum() : 0) + (this.right ? this.right.sum() : 0);
  }
}

function plant(count) {
  const tree = new Tree(2050);
  for (let i = 0; i < count; i++) {
    tree.insert((i * 7919) % 4099);
  }
  return tree.sum();
}

function order(count) {
  const rows = [];
  for (let i = 0; i < count; i++) {
    rows.push({ id: i, name: `name ${(i * 7919) % 4099}` });
  }
  rows.sort((a, b) => (a.name < b.name ? -1 : 1));
  return JSON.parse(JSON.stringify(rows));
}

function rewrite(rows) {
  const text = rows.map((row) => row.name).join(" ");
  return text.replace(/[a-z]+ [0-9]*7/g, (found) => found.toUpperCase());
}

http
  .createServer((request, response) => {
    response.end(`${plant(100)} ${rewrite(order(100))}`);
  })
  .listen(8080, "127.0.0.1");
