//! Cuts Rust source into words, `::` and marks; comments, strings and characters are dropped, lines kept.
//!
//! Literals are dropped because rules about code must not trip over text that merely mentions it.

/// A word or mark of the code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    pub kind: Kind,
    /// Counted from 1.
    pub line: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    Word(String),
    /// `::`
    Separator,
    Mark(char),
}

pub fn tokens(text: &str) -> Vec<Token> {
    Lexer { rest: text.chars().collect(), at: 0, line: 1, tokens: Vec::new() }.run()
}

struct Lexer {
    rest: Vec<char>,
    at: usize,
    line: usize,
    tokens: Vec<Token>,
}

impl Lexer {
    fn run(mut self) -> Vec<Token> {
        while let Some(c) = self.peek(0) {
            match c {
                '/' if self.peek(1) == Some('/') => self.skip_while(|c| c != '\n'),
                '/' if self.peek(1) == Some('*') => self.skip_block_comment(),
                '"' => self.skip_string(),
                '\'' => self.skip_character_or_lifetime(),
                'r' | 'b' | 'c' if self.skip_prefixed_literal() => {}
                ':' if self.peek(1) == Some(':') => {
                    self.push(Kind::Separator);
                    self.skip(2);
                }
                c if is_word(c) => self.word(),
                c if c.is_whitespace() => self.skip(1),
                c => {
                    self.push(Kind::Mark(c));
                    self.skip(1);
                }
            }
        }
        self.tokens
    }

    fn peek(&self, ahead: usize) -> Option<char> {
        self.rest.get(self.at + ahead).copied()
    }

    fn push(&mut self, kind: Kind) {
        self.tokens.push(Token { kind, line: self.line });
    }

    fn skip(&mut self, count: usize) {
        for _ in 0..count {
            if self.peek(0) == Some('\n') {
                self.line += 1;
            }
            self.at += 1;
        }
    }

    fn skip_while(&mut self, wanted: impl Fn(char) -> bool) {
        while self.peek(0).is_some_and(&wanted) {
            self.skip(1);
        }
    }

    fn word(&mut self) {
        let start = self.at;
        self.skip_while(is_word);
        let word = self.rest[start..self.at].iter().collect();
        self.push(Kind::Word(word));
    }

    fn skip_block_comment(&mut self) {
        let mut depth = 0usize;
        while self.peek(0).is_some() {
            match (self.peek(0), self.peek(1)) {
                (Some('/'), Some('*')) => {
                    depth += 1;
                    self.skip(2);
                }
                (Some('*'), Some('/')) => {
                    depth -= 1;
                    self.skip(2);
                    if depth == 0 {
                        return;
                    }
                }
                _ => self.skip(1),
            }
        }
    }

    fn skip_string(&mut self) {
        self.skip(1);
        while let Some(c) = self.peek(0) {
            match c {
                '\\' => self.skip(2),
                '"' => return self.skip(1),
                _ => self.skip(1),
            }
        }
    }

    /// `'a'` and `'\n'` are characters, `'a` is a lifetime: one is closed, the other is not.
    fn skip_character_or_lifetime(&mut self) {
        if self.peek(1) == Some('\\') {
            self.skip(3);
            self.skip_while(|c| c != '\'');
            self.skip(1);
        } else if self.peek(2) == Some('\'') {
            self.skip(3);
        } else {
            self.skip(1);
            self.skip_while(is_word);
        }
    }

    /// `r"…"`, `r#"…"#`, `b"…"`, `br#"…"#`, `c"…"`, `b'…'`; a raw name `r#type` loses its mark. False where a word begins.
    fn skip_prefixed_literal(&mut self) -> bool {
        let prefix = (0..2).take_while(|&ahead| matches!(self.peek(ahead), Some('r' | 'b' | 'c'))).count();
        let raw = (0..prefix).any(|ahead| self.peek(ahead) == Some('r'));
        let hashes = (prefix..).take_while(|&ahead| self.peek(ahead) == Some('#')).count();
        match self.peek(prefix + hashes) {
            Some('"') if raw => {
                self.skip(prefix + hashes + 1);
                let closed =
                    |lexer: &Self| lexer.peek(0) == Some('"') && (1..=hashes).all(|n| lexer.peek(n) == Some('#'));
                while self.peek(0).is_some() && !closed(self) {
                    self.skip(1);
                }
                self.skip(1 + hashes);
                true
            }
            Some('"') if hashes == 0 => {
                self.skip(prefix);
                self.skip_string();
                true
            }
            Some('\'') if hashes == 0 && prefix == 1 && self.peek(0) == Some('b') => {
                self.skip(1);
                self.skip_character_or_lifetime();
                true
            }
            Some(c) if raw && prefix == 1 && hashes == 1 && is_word(c) => {
                self.skip(2);
                self.word();
                true
            }
            _ => false,
        }
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        let word = |token: Token| match token.kind {
            Kind::Word(word) => Some(word),
            _ => None,
        };
        tokens(text).into_iter().filter_map(word).collect()
    }

    #[test]
    fn comments_and_literals_are_not_code() {
        let text = "a // b\n/* c /* d */ e */ f \"g\\\" h\" r#\"i \" j\"# b'k' 'l' '\\'' br\"m\" c\"n\" o";
        assert_eq!(words(text), ["a", "f", "o"]);
    }

    #[test]
    fn a_lifetime_does_not_open_a_character() {
        assert_eq!(words("fn f<'a>(x: &'a str, c: char) { c == 'x' }"), ["fn", "f", "x", "str", "c", "char", "c"]);
    }

    #[test]
    fn raw_names_and_words_that_begin_like_a_literal_are_words() {
        assert_eq!(words("r#type break_ crate b r"), ["type", "break_", "crate", "b", "r"]);
    }

    #[test]
    fn lines_are_counted_through_what_is_dropped() {
        let last = tokens("/*\n\n*/ \"\n\" a").pop().unwrap();
        assert_eq!(last, Token { kind: Kind::Word("a".into()), line: 4 });
    }
}
