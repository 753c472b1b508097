// Why a request cannot be answered: a code, a text, and a position if an expression is wrong.

export class Refused extends Error {
  constructor(error) {
    super(error.message);
    this.code = error.code;
    this.position = error.position;
  }
}
