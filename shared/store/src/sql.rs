//! Statements that are written by hand, because they write many rows at once.

use std::collections::BTreeSet;

use sea_orm::{ConnectionTrait, DatabaseBackend, DatabaseTransaction, DbErr};

/// Rows in one statement; what is left over goes in smaller ones. Few sizes, so that every statement is prepared once.
pub(crate) const SIZES: [usize; 3] = [100, 10, 1];

/// Parts of these sizes, as few as can be.
pub(crate) fn in_sizes<T>(rows: &[T]) -> impl Iterator<Item = &[T]> {
    let mut rest = rows;
    std::iter::from_fn(move || {
        let size = SIZES.into_iter().find(|size| *size <= rest.len())?;
        let (part, later) = rest.split_at(size);
        rest = later;
        Some(part)
    })
}

/// PostgreSQL numbers what SQLite leaves a question mark for.
pub(crate) fn numbered(backend: DatabaseBackend, sql: &str) -> String {
    if backend != DatabaseBackend::Postgres {
        return sql.to_owned();
    }
    let mut numbered = String::with_capacity(sql.len() + 64);
    for (index, part) in sql.split('?').enumerate() {
        if index > 0 {
            numbered.push('$');
            numbered.push_str(&index.to_string());
        }
        numbered.push_str(part);
    }
    numbered
}

/// Until the transaction ends, nobody else has any of these locks. `space` is a number that one purpose uses alone.
///
/// To be called before anything is written.
pub(crate) async fn lock(transaction: &DatabaseTransaction, space: i32, places: &BTreeSet<u32>) -> Result<(), DbErr> {
    // SQLite has one writer at a time.
    if places.is_empty() || transaction.get_database_backend() != DatabaseBackend::Postgres {
        return Ok(());
    }
    // In one order, so that two who want the same ones do not wait for each other.
    let places: Vec<_> = places.iter().map(|place| format!("({place})")).collect();
    let sql =
        format!("SELECT pg_advisory_xact_lock({space}, place) FROM (VALUES {}) AS wanted (place)", places.join(", "));
    transaction.execute_unprepared(&sql).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_written_in_few_sizes() {
        for (rows, sizes) in [(0, vec![]), (3, vec![1, 1, 1]), (110, vec![100, 10]), (212, vec![100, 100, 10, 1, 1])] {
            assert_eq!(in_sizes(&vec![(); rows]).map(<[()]>::len).collect::<Vec<_>>(), sizes, "{rows}");
        }
    }

    #[test]
    fn places_are_numbered_for_postgresql_alone() {
        assert_eq!(numbered(DatabaseBackend::Postgres, "(?, ?) AND ?"), "($1, $2) AND $3");
        assert_eq!(numbered(DatabaseBackend::Sqlite, "(?, ?)"), "(?, ?)");
    }
}
