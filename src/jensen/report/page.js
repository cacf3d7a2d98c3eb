"use strict";
(function () {
  var field = document.getElementById("find"), table = document.getElementById("scalars");
  if (!field || !table) return;
  var body = table.tBodies[0], rows = Array.from(body.rows), count = document.getElementById("found");
  var data = document.getElementById("rows"), all = null, most = 200;
  field.closest(".find").hidden = false;
  // Every quantity as [name, verdict, variable, place]; made when somebody searches.
  function list() {
    var known = JSON.parse(data.textContent), found = [];
    known.variables.forEach(function (v) {
      var cells = v.columns.map(function (c) { return c.split(" "); }), size = v.words.length;
      for (var i = 0; i < size; i++) {
        var rest = i, index = [];
        for (var axis = v.labels.length - 1; axis >= 0; axis--) {
          index.unshift(v.labels[axis][rest % v.labels[axis].length]);
          rest = Math.floor(rest / v.labels[axis].length);
        }
        found.push([index.length ? v.name + "[" + index.join(", ") + "]" : v.name, known.words[v.words[i]], cells, i]);
      }
    });
    return found;
  }
  function row(entry) {
    var line = document.createElement("tr"), head = document.createElement("th"), badge = null;
    head.scope = "row";
    head.textContent = entry[0];
    line.append(head);
    var word = document.createElement("td");
    word.className = "t";
    badge = document.querySelector("template[data-word='" + entry[1] + "']");
    word.append(badge ? badge.content.cloneNode(true) : entry[1]);
    line.append(word);
    entry[2].forEach(function (column) {
      var cell = document.createElement("td");
      cell.textContent = column[entry[3]].replace(/^(-?)\./, "$10.");
      line.append(cell);
    });
    return line;
  }
  field.addEventListener("input", function () {
    var wanted = field.value.trim().toLowerCase(), shown = [], total = 0;
    if (!wanted) {
      body.replaceChildren.apply(body, rows);
      count.textContent = "";
      return;
    }
    if (data) {
      all = all || list();
      all.forEach(function (entry) {
        if (!entry[0].toLowerCase().includes(wanted) && entry[1] !== wanted) return;
        if (total++ < most) shown.push(row(entry));
      });
    } else {
      shown = rows.filter(function (line) { return line.textContent.toLowerCase().includes(wanted); });
      total = shown.length;
    }
    body.replaceChildren.apply(body, shown);
    count.textContent = total + " found" + (total > shown.length ? ", the first " + shown.length + " shown" : "");
  });
})();
