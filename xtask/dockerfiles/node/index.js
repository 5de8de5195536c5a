const ms = require("ms");
const nopt = require("nopt");

const { long } = nopt({ long: Boolean }, {}, ["node", "index.js", "--long"]);
console.log(ms(90 * 60 * 1000, { long }));
