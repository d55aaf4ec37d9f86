//! Tables in plain text or Markdown.

pub struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
    /// Columns that are text; the others are figures, aligned to the right.
    text_columns: usize,
}

impl Table {
    /// The first `text_columns` columns are text.
    pub fn new(header: &[&str], text_columns: usize) -> Self {
        Self { header: header.iter().map(|title| (*title).to_owned()).collect(), rows: vec![], text_columns }
    }

    /// A row may be shorter than the header.
    pub fn push(&mut self, mut row: Vec<String>) {
        row.resize(self.header.len(), String::new());
        self.rows.push(row);
    }

    pub fn render(&self, markdown: bool) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().chain([&self.header]).map(|row| row[column].chars().count());
            cells.max().unwrap_or(0).max(3)
        };
        let widths: Vec<_> = (0..self.header.len()).map(width).collect();
        let line = |row: &[String]| {
            let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
                if column < self.text_columns { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
            });
            let cells: Vec<_> = cells.collect();
            if markdown { format!("| {} |\n", cells.join(" | ")) } else { format!("{}\n", cells.join("  ").trim_end()) }
        };
        let rule = widths.iter().enumerate().map(|(column, width)| match markdown {
            true if column >= self.text_columns => format!("{}:", "-".repeat(width - 1)),
            _ => "-".repeat(*width),
        });
        let mut text = line(&self.header);
        text += &line(&rule.collect::<Vec<_>>());
        self.rows.iter().for_each(|row| text += &line(row));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&["what", "per second"], 1);
        table.push(vec!["µ-posts".into(), "12".into()]);
        table.push(vec!["none".into()]);
        table
    }

    #[test]
    fn plain_text_is_aligned() {
        let expected = "what     per second\n-------  ----------\nµ-posts          12\nnone\n";
        assert_eq!(table().render(false), expected);
    }

    #[test]
    fn markdown_says_which_columns_are_figures() {
        let text = table().render(true);
        assert!(text.contains("| ------- | ---------: |"), "{text}");
        assert!(text.contains("| µ-posts |         12 |"), "{text}");
    }
}
