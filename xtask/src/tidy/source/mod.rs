//! Reads Rust source just far enough for the house's rules: paths, `use` trees, calls, and where each stands.
//!
//! Not a parser: comments and literals are dropped, and braces give the scopes. That is all that rules about names need,
//! and it reads half-finished code, too. What a macro makes of its words is not seen.

mod lexer;

use lexer::{Kind, Token};

/// A block of the file: what encloses it matters to the rules.
#[derive(Debug, Clone, Default)]
pub struct Scope {
    /// Inside `#[cfg(test)]` or `#[test]`.
    pub test: bool,
    /// Inline modules around, outermost first.
    pub modules: Vec<String>,
    /// Functions around, outermost first.
    pub functions: Vec<String>,
}

/// A path as written, `use` trees flattened: `use a::{b, c::*}` is `a::b` and `a::c::*`. A lone word is a path, too.
#[derive(Debug)]
pub struct Path {
    pub segments: Vec<String>,
    /// Counted from 1.
    pub line: usize,
    pub scope: Scope,
    /// Followed by `(`: a call of a function or method.
    pub called: bool,
}

/// All paths of a file, in order.
pub fn paths(text: &str) -> Vec<Path> {
    Reader::over(text).paths
}

/// The modules that a file declares for tests alone, in files of their own: `#[cfg(test)] mod NAME;`.
pub fn test_modules(text: &str) -> Vec<String> {
    Reader::over(text).test_modules
}

struct Reader {
    tokens: Vec<Token>,
    at: usize,
    /// The block we are in is the last.
    scopes: Vec<Scope>,
    paths: Vec<Path>,
    test_modules: Vec<String>,
}

impl Reader {
    fn over(text: &str) -> Self {
        let tokens = lexer::tokens(text);
        let scopes = vec![Scope::default()];
        let mut reader = Self { tokens, at: 0, scopes, paths: Vec::new(), test_modules: Vec::new() };
        reader.run();
        reader
    }

    fn run(&mut self) {
        // What the next `{` will open, as its head has told so far.
        let mut next = Scope::default();
        // `;` inside `[u8; 4]` ends no statement.
        let mut depth = 0usize;
        while let Some(token) = self.tokens.get(self.at) {
            match &token.kind {
                Kind::Mark('#') => {
                    next.test |= self.attribute_is_test();
                    continue;
                }
                Kind::Mark('{') => {
                    let mut scope = self.scope();
                    scope.test |= next.test;
                    scope.modules.append(&mut next.modules);
                    scope.functions.append(&mut next.functions);
                    self.scopes.push(scope);
                    next = Scope::default();
                }
                Kind::Mark('}') => {
                    // Half-finished code may close more than it opens.
                    if self.scopes.len() > 1 {
                        self.scopes.pop();
                    }
                }
                Kind::Mark('(' | '[') => depth += 1,
                Kind::Mark(')' | ']') => depth = depth.saturating_sub(1),
                Kind::Mark(';') if depth == 0 => {
                    let ended = std::mem::take(&mut next);
                    if ended.test {
                        self.test_modules.extend(ended.modules);
                    }
                }
                Kind::Word(word) if word == "use" && depth == 0 => {
                    let test = std::mem::take(&mut next.test);
                    self.at += 1;
                    self.use_tree(&[], test);
                    continue;
                }
                Kind::Word(word) if word == "fn" || word == "mod" => {
                    let names = if word == "fn" { &mut next.functions } else { &mut next.modules };
                    if let Some(Token { kind: Kind::Word(name), .. }) = self.tokens.get(self.at + 1) {
                        names.push(name.clone());
                        self.at += 1;
                    }
                }
                Kind::Word(_) => {
                    self.expression_path();
                    continue;
                }
                Kind::Separator | Kind::Mark(_) => {}
            }
            self.at += 1;
        }
    }

    fn scope(&self) -> Scope {
        self.scopes.last().cloned().unwrap_or_default()
    }

    fn kind(&self, at: usize) -> Option<&Kind> {
        self.tokens.get(at).map(|token| &token.kind)
    }

    /// Passes over `#[…]` or `#![…]`; true for `#[test]`, `#[x::test]` and `#[cfg(test)]`, not for `#[cfg(not(test))]`.
    fn attribute_is_test(&mut self) -> bool {
        self.at += 1;
        if self.kind(self.at) == Some(&Kind::Mark('!')) {
            self.at += 1;
        }
        if self.kind(self.at) != Some(&Kind::Mark('[')) {
            return false;
        }
        let (mut depth, mut test, mut not) = (0usize, false, false);
        while let Some(kind) = self.kind(self.at) {
            match kind {
                Kind::Mark('[') => depth += 1,
                Kind::Mark(']') => depth -= 1,
                Kind::Word(word) => {
                    test |= word == "test";
                    not |= word == "not";
                }
                _ => {}
            }
            self.at += 1;
            if depth == 0 {
                break;
            }
        }
        test && !not
    }

    /// `a::b::c` in code, up to where it is no longer a path.
    fn expression_path(&mut self) {
        let line = self.tokens[self.at].line;
        let mut segments = Vec::new();
        while let Some(Kind::Word(word)) = self.kind(self.at) {
            segments.push(word.clone());
            self.at += 1;
            if self.kind(self.at) != Some(&Kind::Separator) || !matches!(self.kind(self.at + 1), Some(Kind::Word(_))) {
                break;
            }
            self.at += 1;
        }
        let called = self.kind(self.at) == Some(&Kind::Mark('('));
        let scope = self.scope();
        self.paths.push(Path { segments, line, scope, called });
    }

    /// What follows `use`, or one branch of its braces, up to and without the `,`, `}` or `;` behind it.
    fn use_tree(&mut self, before: &[String], test: bool) {
        let mut segments = before.to_vec();
        let mut line = self.tokens.get(self.at).map_or(0, |token| token.line);
        while let Some(token) = self.tokens.get(self.at) {
            match &token.kind {
                Kind::Word(word) if word == "as" => self.at += 1,
                Kind::Word(word) => {
                    segments.push(word.clone());
                    line = token.line;
                }
                Kind::Mark('*') => segments.push("*".to_owned()),
                Kind::Mark('{') => {
                    self.at += 1;
                    return self.use_branches(&segments, test);
                }
                Kind::Mark(_) => break,
                Kind::Separator => {}
            }
            self.at += 1;
        }
        // `use<>` in a return type imports nothing: it says what the type borrows.
        if segments.is_empty() {
            return;
        }
        let mut scope = self.scope();
        scope.test |= test;
        self.paths.push(Path { segments, line, scope, called: false });
    }

    fn use_branches(&mut self, before: &[String], test: bool) {
        while let Some(kind) = self.kind(self.at) {
            match kind {
                Kind::Mark('}') => {
                    self.at += 1;
                    return;
                }
                Kind::Mark(',') => self.at += 1,
                Kind::Mark(';') => return,
                _ => {
                    let started = self.at;
                    self.use_tree(before, test);
                    // A mark that belongs in no `use` must not hold us up.
                    self.at = self.at.max(started + 1);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> Vec<String> {
        paths(text).into_iter().map(|path| path.segments.join("::")).filter(|path| path.contains("::")).collect()
    }

    #[test]
    fn use_trees_are_flattened() {
        let text = "use a::b;\npub(crate) use c::{self, d as e, f::{g, h::*}};\nuse ::i::j;";
        assert_eq!(written(text), ["a::b", "c::self", "c::d", "c::f::g", "c::f::h::*", "i::j"]);
    }

    #[test]
    fn what_a_type_borrows_is_no_import() {
        assert_eq!(written("fn f() -> impl Sized + use<> { a::b() }"), ["a::b"]);
        assert!(paths("fn f() -> impl Sized + use<> {}").iter().all(|path| !path.segments.is_empty()));
    }

    #[test]
    fn the_lines_of_a_tree_are_those_of_its_names() {
        let lines: Vec<usize> = paths("use a::{\n    b,\n    c,\n};").iter().map(|path| path.line).collect();
        assert_eq!(lines, [2, 3]);
    }

    #[test]
    fn paths_in_code_are_seen_and_generics_end_them() {
        assert_eq!(written("fn f() -> crate::x::Y { Vec::<crate::z::W>::new() }"), ["crate::x::Y", "crate::z::W"]);
    }

    #[test]
    fn tests_modules_and_functions_are_known() {
        let text = "fn a(x: [u8; 4]) { one() }\n#[cfg(test)] mod tests { use b::c; fn d() { two() } }\n#[cfg(not(test))] fn e() { three() }";
        let all = paths(text);
        let scope = |name: &str| &all.iter().find(|path| path.segments.last().unwrap() == name).unwrap().scope;
        assert_eq!((scope("one").test, scope("one").functions.clone()), (false, vec!["a".to_owned()]));
        assert!(scope("c").test && scope("two").test && !scope("three").test);
        assert_eq!(scope("two").modules, ["tests"]);
    }

    #[test]
    fn modules_of_tests_in_other_files_are_known() {
        assert_eq!(test_modules("pub mod a;\n#[cfg(test)]\nmod b;\n#[cfg(test)] mod c { }\nmod d;"), ["b"]);
    }

    #[test]
    fn an_attribute_on_a_use_does_not_leak_into_what_follows() {
        let all = paths("#[cfg(test)]\nuse a::b;\nfn c() { d() }");
        assert!(all.iter().any(|path| path.segments == ["a", "b"] && path.scope.test));
        assert!(all.iter().all(|path| path.segments != ["d"] || !path.scope.test));
    }
}
